// Command serve answers for incident.io, PagerDuty and a decision webhook, with one
// person on call: for trying automatic approval without an account.
//
//	go run ./internal/duty/serve --email jane@example.com --role DBA
package main

import (
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/latchkey-dev/latchkey/internal/duty"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	listen := flag.String("listen", "127.0.0.1:9911", "address to listen on")
	email := flag.String("email", "jane@example.com", "who is on call; nobody where empty")
	role := flag.String("role", "DBA", "the role in a live incident")
	schedule := flag.String("schedule", "PRIMARY", "id of the schedule in PagerDuty")
	approve := flag.String("approve", "", "id of a person whom the webhook approves")
	key := flag.String("key", "", "key that callers must present; any where empty")
	secret := flag.String("secret", "duty", "secret of the webhook")
	flag.Parse()
	fake := &duty.Fake{Key: *key, Secret: *secret}
	if *email != "" {
		fake.Set([]duty.Incident{{ID: "01HDUTY0000000000000000001", Reference: "INC-1", Category: "live", Roles: []duty.Role{{Name: *role, Email: *email, Assignee: *email}}}},
			[]duty.OnCall{{Email: *email, Name: *email, Schedule: *schedule, ScheduleName: *schedule, Policy: "Engineering", Level: 1}})
	}
	if *approve != "" {
		fake.Approve(nil, *approve)
	}
	ln, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	fmt.Fprintln(os.Stdout, "duty listens on", ln.Addr())
	return (&http.Server{Handler: fake, ReadHeaderTimeout: 5 * time.Second}).Serve(ln)
}
