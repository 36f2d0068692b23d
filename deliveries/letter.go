package deliveries

import (
	"context"
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
)

// People tells whom an e-mail goes to, and what they may see.
type People interface {
	// Reader returns a person as the reader of a request: NotFound where either is
	// gone, the person is not active, or the request does not concern them.
	Reader(ctx context.Context, customer, person, request string, now latchkey.Instant) (Reader, error)
}

// Reader is who reads an e-mail about a request.
type Reader struct {
	Email string // "" for none
	Name  string
	// Decides says that the person may decide on the request. Justification is what
	// the requester wrote for those who may, "" for anybody else.
	Decides       bool
	Justification string
	// Pending says that nobody has decided yet.
	Pending bool
	// Duration is what was asked for, 0 where it is no duration.
	Duration time.Duration
}

// Letter is an e-mail's subject and text.
type Letter struct{ Subject, Text string }

// Compose writes the e-mail about an event for its reader. link leads to the
// request, "" for none. False: there is nothing to tell any more.
func Compose(e *audit.Event, to Reader, link string) (l Letter, ok bool, err error) {
	changes, err := Changes(e)
	if err != nil {
		return l, false, err
	}
	get := func(name string) string { return line(changes.Get(name).Text()) }
	event := changes.Get("event").Text()
	what := get("template_name")
	if app := get("app_name"); app != "" && app != what {
		what += " (" + app + ")"
	}
	var b strings.Builder
	switch event {
	case Submitted, Escalated:
		if !to.Decides || !to.Pending {
			return l, false, nil // somebody has, or the reader no longer may
		}
		who := requester(changes)
		l.Subject = "Access request: " + what + " for " + who
		fmt.Fprintf(&b, "%s asks for access to %s", who, what)
		if to.Duration > 0 {
			fmt.Fprintf(&b, ", for %s", duration(to.Duration))
		}
		b.WriteString(".\n")
		if event == Escalated {
			b.WriteString("Nobody has decided on it so far.\n")
		}
		if to.Justification != "" {
			b.WriteString("\nThe reason given:\n\n" + quote(to.Justification) + "\n")
		}
		if link != "" {
			b.WriteString("\nDecide here: " + link + "\n")
		}
	case Approved, Denied, Revoked, Expired:
		became := strings.TrimPrefix(event, "access_request.")
		switch {
		case changes.Get("cancelled").True():
			became = "cancelled"
		case changes.Get("pending").True():
			became = "not decided on in time"
		}
		l.Subject = "Your access request was " + became + ": " + what
		fmt.Fprintf(&b, "Your request for access to %s was %s.\n", what, became)
		if link != "" {
			b.WriteString("\nSee it here: " + link + "\n")
		}
	default:
		return l, false, nil
	}
	fmt.Fprintf(&b, "\nRequest %s, %s\n", line(e.Resource.ID), e.At)
	l.Text = b.String()
	return l, true, nil
}

func requester(changes strictjson.Value) string {
	name, email := line(changes.Get("requester_name").Text()), line(changes.Get("requester_email").Text())
	switch {
	case name == "" && email == "":
		return "somebody"
	case name == "":
		return email
	case email == "":
		return name
	}
	return name + " <" + email + ">"
}

// line makes a text one line of an e-mail: nothing of it can begin another one, nor
// turn round what stands beside it.
func line(text string) string {
	const most = 200
	text = plain(text)
	if runes := []rune(text); len(runes) > most {
		text = string(runes[:most]) + "…"
	}
	return text
}

func plain(text string) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp) {
			return ' '
		}
		return r
	}, text))
}

// quote marks each line as somebody else's words.
func quote(text string) string {
	var b strings.Builder
	for l := range strings.Lines(strings.ReplaceAll(text, "\r\n", "\n")) {
		b.WriteString("> " + plain(l) + "\n")
	}
	return strings.TrimSuffix(b.String(), "\n")
}

func duration(d time.Duration) string {
	if d%time.Hour == 0 {
		return fmt.Sprintf("%d h", d/time.Hour)
	}
	return fmt.Sprintf("%d min", d/time.Minute)
}
