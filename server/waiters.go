package server

import (
	"sync"
	"time"

	"github.com/latchkey-dev/latchkey"
)

// waiters bounds how many clients wait at a time: in the process, of one customer,
// and of one person, who has half of the customer's places at most and so leaves some
// to the others. Each holds a connection.
type waiters struct {
	most, mostOfCustomer int

	mu         sync.Mutex
	all        int
	byCustomer map[string]int
	byPerson   map[string]int
}

func newWaiters(most, ofCustomer int) *waiters {
	return &waiters{most: most, mostOfCustomer: ofCustomer, byCustomer: map[string]int{}, byPerson: map[string]int{}}
}

func (w *waiters) mostOfPerson() int { return (w.mostOfCustomer + 1) / 2 }

// begin takes a place, for which end is called; false where there is none. person is
// "" for who is none.
func (w *waiters) begin(customer, person string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.all >= w.most || w.byCustomer[customer] >= w.mostOfCustomer || person != "" && w.byPerson[person] >= w.mostOfPerson() {
		return false
	}
	w.all++
	w.byCustomer[customer]++
	if person != "" {
		w.byPerson[person]++
	}
	return true
}

func (w *waiters) end(customer, person string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all--
	if w.byCustomer[customer]--; w.byCustomer[customer] == 0 {
		delete(w.byCustomer, customer)
	}
	if person == "" {
		return
	}
	if w.byPerson[person]--; w.byPerson[person] == 0 {
		delete(w.byPerson, person)
	}
}

// waiting is how many clients wait.
func (w *waiters) waiting() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.all
}

func (w *waiters) errFull() error {
	return latchkey.Errorf(latchkey.TooManyRequests, "too_many_waiting", "%d clients of a customer wait at a time, %d of a person, and %d in all; try again later",
		w.mostOfCustomer, w.mostOfPerson(), w.most)
}

// wait is one client's, with a place among the waiters.
type wait struct {
	r        *request
	w        *waiters
	customer string
	person   string
	over     time.Time
	timer    *time.Timer // the only one: there may be thousands of clients
}

// woken tells what ended a wait.
type woken uint8

const (
	byChange woken = iota // or perhaps a change
	byEnd                 // the time is over, or the server stops
	byClient              // it has gone
)

// wait begins one, nil where there is no place for it. It is ended by end.
func (r *request) wait(w *waiters, customer string, most time.Duration) *wait {
	person := ""
	if p := r.caller.Person; p != nil {
		person = p.ID
	}
	if !w.begin(customer, person) {
		return nil
	}
	timer := time.NewTimer(most)
	return &wait{r: r, w: w, customer: customer, person: person, over: time.Now().Add(most), timer: timer}
}

// until waits for changed, and no longer than look, 0 for as long as it takes.
func (w *wait) until(changed <-chan struct{}, look time.Duration) woken {
	now := time.Now()
	again := w.over
	if look > 0 {
		again = now.Add(look)
	}
	for {
		w.timer.Reset(min(goneCheck, w.over.Sub(now), again.Sub(now)))
		select {
		case <-changed:
			return byChange
		case <-w.r.s.stopping:
			return byEnd
		case now = <-w.timer.C:
		}
		switch {
		case !now.Before(w.over):
			return byEnd
		case !now.Before(again):
			return byChange
		case hungUp(w.r.c.Context().Conn()):
			return byClient
		}
	}
}

func (w *wait) end() {
	w.timer.Stop()
	w.w.end(w.customer, w.person)
}
