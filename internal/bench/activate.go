package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/tidwall/gjson"

	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/policies/bundle"
)

// Goals of activation.
const (
	wantActivating = 10.0 // p99.9 to that at rest
	wantPeak       = 150  // bytes of memory a byte of source, at the peak
)

// A bundle of 2 MiB of Rego, which is all new each time.
const (
	bundlePolicies    = 40
	bundlePolicyBytes = 50 << 10
)

// activated is what those who ask notice of a bundle that comes into force.
type activated struct {
	rest, during []sample
	bundles      int           // that came into force
	longest      time.Duration // from the file to being in force
	source       int           // bytes of policies in one
	peak         float64       // most memory above that before, in bytes a byte of source
}

// activation loads a server on all cores, in turns at rest and while bundles
// come into force one after the other.
func activation(ctx context.Context, s settings, dir, script, questions string) (_ *activated, err error) {
	dir = filepath.Join(dir, "activation")
	a, sequence := &activated{}, int64(0)
	file := filepath.Join(dir, "bundle.tar.gz")
	put := func() error {
		sequence++
		raw, source, err := largeBundle(sequence)
		if err != nil {
			return err
		}
		a.source = source
		if err := os.WriteFile(file+".new", raw, 0o600); err != nil {
			return err
		}
		return os.Rename(file+".new", file)
	}
	list := "- {customer: default, file: bundle.tar.gz, poll: {min: 50ms, max: 100ms}}\n"
	if err := errors.Join(os.MkdirAll(dir, 0o700), put(), os.WriteFile(filepath.Join(dir, "bundles.yaml"), []byte(list), 0o600)); err != nil {
		return nil, err
	}
	l, err := startLatchkey(ctx, s, launch, "latchkey", filepath.Join(dir, "data"), authz.NewRootToken().Reveal(), "--bundles", filepath.Join(dir, "bundles.yaml"))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, l.stop()) }()
	reply, err := post(ctx, l.base+"/v1/access_keys", l.root, "default", newKey(`{"customer":{"decision":true}}`, "bench", "caller"))
	if err != nil {
		return nil, err
	}
	server := *l.process
	server.url = l.base + "/decision/rules"
	under := &load{server: &server, script: script, headers: []string{"Authorization: Bearer " + gjson.GetBytes(reply, "key").String(), "Content-Type: application/json"}, args: []string{questions, "random"}}
	pid := l.cmd.Process.Pid
	for round := range s.rounds/3 + 2 {
		rest, err := under.run(ctx, publishingSeconds)
		if err != nil {
			return nil, err
		}
		stop := make(chan struct{})
		var failed error
		var publisher sync.WaitGroup
		publisher.Go(func() {
			for failed == nil {
				select {
				case <-stop:
					return
				default:
					failed = a.activate(ctx, l, pid, put, &sequence)
				}
			}
		})
		during, err := under.run(ctx, publishingSeconds)
		close(stop)
		publisher.Wait()
		if err := errors.Join(err, failed); err != nil {
			return nil, err
		}
		progress("round %d: p99.9 at rest %v, while bundles come into force %v; %d so far, %v at most, %.0f bytes a byte", round, rest.p999, during.p999, a.bundles, a.longest, a.peak)
		if round > 0 {
			a.rest, a.during = append(a.rest, rest), append(a.during, during)
		}
	}
	return a, nil
}

// activate puts the next bundle there and waits until it is in force.
func (a *activated) activate(ctx context.Context, l *pdp, pid int, put func() error, sequence *int64) error {
	before, err := memory(pid, "VmRSS")
	if err == nil {
		err = os.WriteFile("/proc/"+strconv.Itoa(pid)+"/clear_refs", []byte("5"), 0) // the peak begins anew
	}
	if err == nil {
		err = put()
	}
	if err != nil {
		return err
	}
	began := time.Now()
	for {
		text, err := send(ctx, http.MethodGet, l.base+"/v1/bundles", l.root, "default", "")
		if err != nil {
			return err
		}
		status := gjson.GetBytes(text, "bundles.0")
		if code := status.Get("code").String(); code != "" {
			return fmt.Errorf("the bundle was refused: %s", status)
		}
		if status.Get("active_sequence").Int() == *sequence {
			break
		}
		if time.Since(began) > time.Minute {
			return fmt.Errorf("the bundle does not come into force: %s", status)
		}
		time.Sleep(20 * time.Millisecond)
	}
	peak, err := memory(pid, "VmHWM")
	if err != nil {
		return err
	}
	a.bundles++
	a.longest = max(a.longest, time.Since(began))
	a.peak = max(a.peak, float64(peak-before)/float64(a.source))
	return nil
}

// slowdown is the median p99.9 while bundles come into force against that at
// rest.
func (a *activated) slowdown() float64 {
	by := func(s sample) float64 { return float64(s.p999) }
	return middle(a.during, by) / middle(a.rest, by)
}

// largeBundle holds the policy that is asked and, beside it, others that no
// earlier bundle has held; source is the number of their bytes.
func largeBundle(sequence int64) (raw []byte, source int, err error) {
	in := bundle.Input{Customer: "default", Sequence: sequence, Policies: []bundle.Policy{
		{Name: "rules", Language: "cel", Version: 1, Document: json.RawMessage(rules())},
	}}
	for n := range bundlePolicies {
		name := fmt.Sprintf("large-%02d", n)
		var b strings.Builder
		fmt.Fprintf(&b, "package policies[%q]\n\nversion := %d\n\ndefault allow := false\n", name, sequence)
		for i := 0; b.Len() < bundlePolicyBytes-200; i++ {
			fmt.Fprintf(&b, "\nallow if {\n\tinput.resource.id == \"document-%d-%04d\"\n\tinput.action.name in {\"read\", \"update\"}\n\tinput.subject.properties.team == \"team-%d\"\n}\n", n, i, i%7)
		}
		source += b.Len()
		in.Policies = append(in.Policies, bundle.Policy{Name: name, Language: "rego", Version: sequence, Rego: b.String()})
	}
	built, err := new(bundle.Builder).Build(in, bundle.ProfileLatchkey, nil)
	if err != nil {
		return nil, 0, err
	}
	return built.Raw, source, nil
}
