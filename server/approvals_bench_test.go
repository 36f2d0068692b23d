package server_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// BenchmarkApprovals_Waiting measures what clients that wait cost, beside as many
// connections that lie open and idle after the same call without a wait, and how
// soon they hear of the decision.
//
//	go test ./server -run '^$' -bench Approvals_Waiting -benchtime 1x
func BenchmarkApprovals_Waiting(b *testing.B) {
	const clients = 1000
	for range b.N {
		k := startKit(b)
		k.server.LimitRequestWaiters(clients)
		request := k.ask("").outcome("waiting")

		ask := func(resource, wait string) string {
			body := approvalBody(petitioner(k.laura), wait, resource)
			return fmt.Sprintf("POST /v1/approvals HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", k.portal.secret, len(body), body)
		}

		before := usage()
		idle := k.connections(clients, ask("acme", ""), true)
		idling := usage()
		for _, c := range idle {
			c.Close()
		}
		k.until(func() bool { return runtime.NumGoroutine() < before.goroutines+clients/10 })
		before = usage()
		waiting := k.connections(clients, ask("acme", `,"wait":60`), false)
		k.gauge("latchkey_access_request_waiting", clients)
		waits := usage()

		// One decision that all of them wait for, and then one each.
		all := k.woken(waiting, func() { k.verdict(k.dale, request, "approve", "").is(200) })
		for _, c := range waiting {
			c.Close()
		}
		var single []time.Duration
		for i := range 50 {
			id := fmt.Sprint("one-", i)
			k.stored("customer", id)
			body := approvalBody(petitioner(k.laura), "", id)
			request := k.do("POST", "/v1/approvals", k.portal.secret, body).outcome("waiting")
			one := k.connections(1, ask(id, `,"wait":60`), false)
			k.gauge("latchkey_access_request_waiting", 1)
			single = append(single, k.woken(one, func() { k.verdict(k.dale, request, "approve", "").is(200) })...)
			one[0].Close()
		}
		slices.Sort(all)
		slices.Sort(single)
		b.ReportMetric(float64(idling.bytes-min(idling.bytes, before.bytes))/clients, "B/idle")
		b.ReportMetric(float64(waits.bytes-min(waits.bytes, before.bytes))/clients, "B/waiting")
		b.ReportMetric(float64(idling.goroutines-before.goroutines)/clients, "goroutines/idle")
		b.ReportMetric(float64(waits.goroutines-before.goroutines)/clients, "goroutines/waiting")
		b.ReportMetric(float64(single[len(single)/2].Microseconds())/1000, "ms-one-p50")
		b.ReportMetric(float64(single[len(single)-1].Microseconds())/1000, "ms-one-max")
		b.ReportMetric(float64(all[len(all)*99/100].Microseconds())/1000, "ms-all-p99")
		k.stop()
	}
}

type used struct {
	bytes      uint64
	goroutines int
}

func usage() used {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return used{m.HeapAlloc + m.StackInuse, runtime.NumGoroutine()}
}

// connections are open ones, on each of which the request was sent; with answered
// its reply has been read.
func (k *kit) connections(n int, request string, answered bool) []net.Conn {
	k.Helper()
	list := make([]net.Conn, n)
	var wg sync.WaitGroup
	places := make(chan struct{}, 32)
	for i := range list {
		places <- struct{}{}
		wg.Go(func() {
			defer func() { <-places }()
			c, err := (&net.Dialer{}).DialContext(context.Background(), "tcp", k.addr)
			if err == nil {
				_, err = c.Write([]byte(request))
			}
			if err == nil && answered {
				var resp *http.Response
				if resp, err = http.ReadResponse(bufio.NewReaderSize(c, 512), nil); err == nil {
					err = resp.Body.Close()
				}
			}
			if err != nil {
				k.Error(err)
			}
			list[i] = c
		})
	}
	wg.Wait()
	return list
}

// woken is how long after the decision was answered each connection had its
// reply, 0 for before.
func (k *kit) woken(list []net.Conn, decide func()) []time.Duration {
	k.Helper()
	at := make([]time.Time, len(list))
	var wg sync.WaitGroup
	for i, c := range list {
		wg.Go(func() {
			var head [4096]byte
			n, err := c.Read(head[:])
			at[i] = time.Now()
			if err != nil || !strings.Contains(string(head[:n]), `"status":"granted"`) {
				k.Errorf("%v: %s", err, head[:n])
			}
		})
	}
	decide()
	decided := time.Now()
	wg.Wait()
	took := make([]time.Duration, len(list))
	for i := range at {
		took[i] = max(at[i].Sub(decided), 0)
	}
	return took
}
