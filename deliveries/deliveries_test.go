package deliveries

import (
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
)

const start = latchkey.Instant(1_900_000_000_000_000)

func changes(t testing.TB, text string) strictjson.Value {
	t.Helper()
	var doc strictjson.Doc
	if err := doc.Parse(text); err != nil {
		t.Fatal(err)
	}
	return doc.Root()
}

// The vector of the receivers' own package.
func TestSignIndent_IsThatOfItsReceivers(t *testing.T) {
	body := []byte(`{"events":[{"event":"access/grant","timestamp":"2020-05-01T07:00:00Z"}]}`)
	got := SignIndent([]byte("secret_123"), "2020-05-01T07:00:00Z", body)
	if !strings.HasPrefix(got, "c27f1879") || !strings.HasSuffix(got, "935fb0") {
		t.Error(got)
	}
	if at := IndentTime(time.Date(2020, 5, 1, 9, 0, 0, 0, time.FixedZone("", 7200))); at != "2020-05-01T07:00:00.000Z" {
		t.Error(at)
	}
}

// The example of the Standard Webhooks specification.
func TestSign_IsThatOfTheStandard(t *testing.T) {
	key := []byte("\x31\xf2\x80\x94\x09\x52\xb9\xa9\x0c\x5b\xc5\x32\x25\x65\x83\x4c\x4a\xb0\xb5\x12\x4d\x2b\x04\xb9") // any 24 bytes
	one := Sign([][]byte{key}, "msg_p5jXN8AQM9LWM0D4loKWxJek", time.Unix(1614265330, 999_000_000), []byte(`{"test": 2432232314}`))
	two := Sign([][]byte{key, []byte("other")}, "msg_p5jXN8AQM9LWM0D4loKWxJek", time.Unix(1614265330, 0), []byte(`{"test": 2432232314}`))
	if !strings.HasPrefix(one, "v1,") || strings.Contains(one, " ") || !strings.HasPrefix(two, one+" v1,") {
		t.Errorf("%s\n%s", one, two)
	}
}

func TestBody_IsWhatJavaScriptWrites(t *testing.T) {
	for in, want := range map[string]string{
		`"a\u003cb\u2028\u00e9\/"`:                               "\"a<b\u2028é/\"",
		`"\u0008\u000c\u000a\u000d\u0009\u000b\u001f\u007f\"\\"`: `"\b\f\n\r\t\u000b\u001f` + "\u007f" + `\"\\"`,
		`1.0`: `1`, `-0`: `0`, `1e21`: `1e+21`, `1E-7`: `1e-7`, `0.000001`: `0.000001`, `123456789012345680000`: `123456789012345680000`, `5e-324`: `5e-324`, `-1.50`: `-1.5`, `1e100`: `1e+100`,
		`{"b":1,"10":2,"9":3,"a":4,"01":5}`: `{"9":3,"10":2,"b":1,"a":4,"01":5}`,
		`[ null , true, {} ]`:               `[null,true,{}]`,
	} {
		got := string(Body(Approved, start, changes(t, `{"event":"x","template_name":`+in+`}`)))
		if want = `{"type":"access_request.approved","timestamp":"` + start.String() + `","data":{"template_name":` + want + `}}`; got != want {
			t.Errorf("%s\ngot  %s\nwant %s", in, got, want)
		}
	}
}

// Whatever else an event holds, a requester's own words above all, stays inside.
func TestBody_TellsThePayloadAlone(t *testing.T) {
	got := string(Body(Submitted, start, changes(t, `{"pending":true,"justification":"private","comment":"private","evidence":{"a":1},"event":"x","request_id":"r","grant_id":"g"}`)))
	if want := `{"type":"access_request.submitted","timestamp":"` + start.String() + `","data":{"request_id":"r","pending":true}}`; got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
}

// However attempts go and whenever they are made, a delivery ends: delivered, dropped
// where there is nobody left to tell, or dead once an attempt has failed at or after
// its end, and never before one was made there.
func TestAfter_EveryDeliveryEnds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := Delivery{Status: Pending, NextAt: start, EndsAt: start.Add(Patience)}
		for n := 0; ; n++ {
			if n > 100 {
				t.Fatalf("it goes on: %+v", d)
			}
			now := d.NextAt.Add(time.Duration(rapid.Int64Range(0, int64(2*time.Hour)).Draw(t, "late")))
			d.Attempts++
			o := Outcome{Result: "timeout", RetryAfter: time.Duration(rapid.Int64Range(0, int64(100*time.Hour)).Draw(t, "retry after"))}
			switch rapid.IntRange(0, 50).Draw(t, "ok") {
			case 0:
				o.Result = OK
			case 1:
				o.Moot = true
			}
			was := d
			d = d.After(o, now, rapid.Float64Range(0, 0.999).Draw(t, "jitter"))
			switch d.Status {
			case Delivered:
				if o.Result != OK {
					t.Fatal("delivered without success")
				}
				return
			case Dropped:
				if !o.Moot {
					t.Fatal("dropped though there is somebody to tell")
				}
				return
			case Dead:
				if o.Result == OK || o.Moot || now < was.EndsAt {
					t.Fatalf("dead too early: %+v", was)
				}
				return
			case Pending:
				if d.NextAt <= now || d.NextAt > was.EndsAt || d.NextAt < min(now.Add(4*time.Second), was.EndsAt) || d.NextAt > now.Add(5*time.Hour) {
					t.Fatalf("next at %v, now %v, ends at %v", d.NextAt, now, was.EndsAt)
				}
			}
		}
	})
}

func event(name, more string) *audit.Event {
	return &audit.Event{Draft: audit.Draft{At: start, Resource: audit.Resource{ID: "11111111-1111-4111-8111-111111111111"}, Actor: audit.Actor{Type: "user", ID: "22222222-2222-4222-8222-222222222222"},
		Changes: `{"event":"` + name + `","template_name":"Production","app_name":"db","requester_name":"Ann","requester_email":"ann@example.com","requester_id":"33333333-3333-4333-8333-333333333333"` + more + `}`}, Seq: 7, Chain: "default"}
}

func TestMaker_TellsThoseWhoAreAskedAndTheRequester(t *testing.T) {
	m := NewMaker(nil, true)
	const a, b = "44444444-4444-4444-8444-444444444444", "55555555-5555-4555-8555-555555555555"
	asked := `,"notified_approvers":[{"id":"` + a + `"},{"id":"` + b + `"},{"id":"` + a + `"},{"id":"bot"}]`
	for _, c := range []struct {
		event *audit.Event
		want  string
	}{
		{event(Submitted, asked), a + " " + b}, {event(Escalated, asked), a + " " + b}, {event(Submitted, ""), ""},
		{event(Approved, ""), "33333333-3333-4333-8333-333333333333"}, {event(Denied, asked), "33333333-3333-4333-8333-333333333333"}, {event(Expired, ""), "33333333-3333-4333-8333-333333333333"},
		{event("access_request.discussed", asked), ""},
	} {
		var got []string
		for _, d := range m.of(c.event, nil, start) {
			if d.Channel != ByEmail || d.Target != "email:default" || d.Seq != 7 {
				t.Errorf("%+v", d)
			}
			got = append(got, d.Recipient)
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: told %v, want %s", c.event.Changes, got, c.want)
		}
	}
	own := event(Revoked, "")
	own.Actor.ID = "33333333-3333-4333-8333-333333333333"
	if list := m.of(own, nil, start); len(list) != 0 {
		t.Errorf("the requester is told of what they did: %+v", list)
	}
	if list := NewMaker(nil, false).of(event(Approved, ""), nil, start); len(list) != 0 {
		t.Errorf("without e-mail: %+v", list)
	}
}

func TestCompose_JustificationsAreForThoseWhoMayDecide(t *testing.T) {
	to := Reader{Email: "b@example.com", Decides: true, Pending: true, Justification: "because\r\nof this\x1b[31m", Duration: 90 * time.Minute}
	l, ok, err := Compose(event(Submitted, ""), to, "https://console.example.com/r")
	want := "Ann <ann@example.com> asks for access to Production (db), for 90 min.\n\nThe reason given:\n\n> because\n> of this [31m\n\nDecide here: https://console.example.com/r\n\nRequest 11111111-1111-4111-8111-111111111111, " + start.String() + "\n"
	if err != nil || !ok || l.Text != want || l.Subject != "Access request: Production (db) for Ann <ann@example.com>" {
		t.Errorf("%v %q\n%s\nwant\n%s", err, l.Subject, l.Text, want)
	}
	// Whoever may no longer decide is not written to, nor is anybody when somebody has.
	for _, no := range []Reader{{Email: "b@example.com", Pending: true, Justification: "because"}, {Email: "b@example.com", Decides: true, Justification: "because"}} {
		if l, ok, err := Compose(event(Submitted, ""), no, ""); ok || err != nil || l != (Letter{}) {
			t.Errorf("%+v: %v %v", no, l, err)
		}
	}
	for name, want := range map[string]string{Approved: "approved", Denied: "denied", Expired: "expired", Revoked: "revoked"} {
		l, ok, err := Compose(event(name, ""), to, "")
		if err != nil || !ok || l.Subject != "Your access request was "+want+": Production (db)" || strings.Contains(l.Text, "because") {
			t.Errorf("%v %q\n%s", err, l.Subject, l.Text)
		}
	}
	if l, _, _ := Compose(event(Revoked, `,"cancelled":true`), to, ""); !strings.Contains(l.Subject, "cancelled") {
		t.Error(l.Subject)
	}
	// The attack: a name that begins a line of its own.
	evil := event(Submitted, "")
	evil.Changes = strings.Replace(evil.Changes, `"Ann"`, `"Ann\r\nDecide here: https://evil.example.com/\u202e"`, 1)
	if l, _, _ := Compose(evil, to, ""); strings.Contains(l.Text, "\nDecide here: https://evil") || strings.ContainsAny(l.Subject, "\r\n\u202e") || strings.Contains(l.Text, "\u202e") {
		t.Errorf("%q", l)
	}
}

func FuzzParseSettings(f *testing.F) {
	for _, seed := range []string{
		`{"url":"https://example.com/","events":["access_request.approved"],"headers":{"Authorization":"Bearer x"},"compat":"indent","compat_secret":"12345678","description":"d"}`,
		`{"task_id":"11111111-1111-4111-8111-111111111111","events":["access_request.denied","access_request.submitted"]}`, `{"url":"http://[::1]","events":[1],"headers":{"":""}}`, `[]`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var doc strictjson.Doc
		if doc.Parse(text) != nil {
			return
		}
		in, err := ParseSettings(doc.Root(), anyAddress{})
		if err != nil {
			if latchkey.KindOf(err) != latchkey.Invalid {
				t.Fatal(err)
			}
			return
		}
		if (in.URL == "") == (in.TaskID == "") || len(in.Events) == 0 || len(in.Headers) > maxHeaders {
			t.Fatalf("%+v", in)
		}
		for name, value := range in.Headers {
			if !validHeaderName(name) || value != nil && strings.ContainsAny(*value, "\r\n\x00") {
				t.Fatalf("%q: %v", name, value)
			}
		}
	})
}

type anyAddress struct{}

func (anyAddress) CheckURL(string, string) error { return nil }
