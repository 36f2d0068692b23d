// Package client is latchkey's Go SDK: decisions, access that is asked for and
// waited for, the upload of resources, and a net/http middleware that lets in
// what latchkey allows.
//
//	c, err := client.New(client.Config{URL: "http://127.0.0.1:5539", Key: os.Getenv("LATCHKEY_KEY")})
//	grant, err := c.Approval(ctx, client.ApprovalRequest{
//		Petitioners: []client.Petitioner{{ID: user.ID, Email: user.Email}},
//		Resources:   []client.Resource{{Kind: "customer", ID: "acme"}},
//		Wait:        10 * time.Second,
//	})
//	if err != nil {
//		switch client.ErrorKind(err) {
//		case client.Waiting: // nobody has decided yet; ask again later
//		case client.Denied: // an approver or a rule refuses
//		default: // nobody can tell; err says why
//		}
//	}
//
// Every doubt denies: the zero [Decision] allows nothing, and an answer that cannot
// be had, or read, is an error. The key goes to the configured address alone,
// redirects are not followed, replies are bounded, and no error holds the key.
//
// The package stands on floor 1. It imports nothing of latchkey but the ground,
// and nothing that is not in Go's standard library.
package client
