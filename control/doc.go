// Package control is the sidecar's line to its control plane: the feed and its
// records, secrets that only the control plane can verify, and requests that are
// passed on.
//
//	c, err := control.New(control.Config{URL: "https://latchkey.internal", Key: key})
//	welcome, err := c.Welcome(ctx)
//	resp, err := c.RoundTrip(req) // somebody else's request, with their credential
//
// The sidecar's own key goes to the control plane's address alone, redirects are
// not followed, and every reply is bounded. The package stands on floor 1.
package control
