package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf16"

	"github.com/tidwall/gjson"

	"github.com/latchkey-dev/latchkey"
)

// maxReply bounds what is read of a reply.
const maxReply = 64 << 20

// call sends one request to the server and returns the body of a 2xx reply.
// The credential is LATCHKEY_KEY; it is sent over plain HTTP to this machine
// only.
func (r *Remote) call(ctx context.Context, method, path string, body any) (gjson.Result, error) {
	key := os.Getenv("LATCHKEY_KEY")
	if key == "" {
		return gjson.Result{}, usage("set the environment variable LATCHKEY_KEY to the key to call with")
	}
	return r.callAs(ctx, key, method, path, body)
}

// callAs is call with the given credential, "" for none.
func (r *Remote) callAs(ctx context.Context, key, method, path string, body any) (gjson.Result, error) {
	base, err := url.Parse(r.URL)
	if err != nil || base.Scheme != "http" && base.Scheme != "https" || base.Host == "" {
		return gjson.Result{}, usage("--url: want http://… or https://…")
	}
	if host := base.Hostname(); base.Scheme == "http" && !local(host+":0") && !local("["+host+"]:0") {
		return gjson.Result{}, usage("--url %s would send the key in plain text over the network: use https", r.URL)
	}
	var payload io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return gjson.Result{}, err
		}
		payload = bytes.NewReader(text)
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(r.URL, "/")+path, payload)
	if err != nil {
		return gjson.Result{}, usage("%w", err)
	}
	if key != "" {
		req.Header.Set("Authorization", "Bearer "+key)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if r.Customer != "" {
		req.Header.Set("X-Customer-ID", r.Customer)
	}
	if r.CustomerReason != "" {
		req.Header.Set("X-Reason", r.CustomerReason)
	}
	// A redirect would take the key elsewhere.
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(req)
	if err != nil {
		return gjson.Result{}, fmt.Errorf("ask %s: %w", r.URL, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxReply))
	if err != nil {
		return gjson.Result{}, fmt.Errorf("read the reply of %s: %w", r.URL, err)
	}
	if resp.StatusCode >= 300 {
		return gjson.Result{}, problem(resp.StatusCode, text)
	}
	if len(text) > 0 && !gjson.ValidBytes(text) {
		return gjson.Result{}, fmt.Errorf("%s did not answer with JSON", r.URL)
	}
	return gjson.ParseBytes(text), nil
}

// refusal is a problem document that the server answered with.
type refusal struct {
	status       int
	code, detail string
	faults       []latchkey.Fault
}

func (r *refusal) Error() string {
	lines := []string{fmt.Sprintf("the server answered %d %s: %s", r.status, r.code, r.detail)}
	for _, f := range r.faults {
		at := orWhole(f.Pointer)
		if len(r.faults) == 1 && r.detail == at+": "+f.Detail {
			break // as the first line has it
		}
		if f.Line > 0 {
			at += fmt.Sprintf(", line %d, column %d", f.Line, f.Column)
		}
		lines = append(lines, fmt.Sprintf("  %s: %s (%s)", at, f.Detail, f.Code))
	}
	return printableText(strings.Join(lines, "\n"))
}

// problem makes an error of a problem document.
func problem(status int, text []byte) error {
	if !gjson.ValidBytes(text) {
		return fmt.Errorf("the server answered %d", status)
	}
	doc := gjson.ParseBytes(text)
	r := &refusal{status: status, code: doc.Get("code").String(), detail: doc.Get("detail").String()}
	for _, f := range doc.Get("errors").Array() {
		r.faults = append(r.faults, latchkey.Fault{Pointer: f.Get("pointer").String(), Code: f.Get("code").String(), Detail: f.Get("detail").String(),
			Line: int(f.Get("line").Int()), Column: int(f.Get("column").Int())})
	}
	return r
}

// printJSON prints a reply as it came, indented.
func printJSON(out io.Writer, reply gjson.Result) error {
	var b bytes.Buffer
	if err := json.Indent(&b, []byte(reply.Raw), "", "  "); err != nil {
		return err
	}
	_, err := fmt.Fprintln(out, printableText(b.String()))
	return err
}

// printable shows what others have written on a terminal: whatever would move the
// cursor, colour or hide text, begin a line or turn its direction is shown as it is
// written in JSON.
func printable(text string) string {
	if !strings.ContainsFunc(text, unprintable) {
		return text
	}
	var b strings.Builder
	for _, c := range text {
		if unprintable(c) {
			escapeRune(&b, c)
		} else {
			b.WriteRune(c)
		}
	}
	return b.String()
}

// printableText is printable for lines, which it leaves as they are, and tabs. In
// JSON, indented, what it changes can only stand in strings, where it means the
// same.
func printableText(text string) string {
	var b strings.Builder
	for part := range strings.SplitAfterSeq(text, "\n") {
		line, ended := strings.CutSuffix(part, "\n")
		for i, cell := range strings.Split(line, "\t") {
			if i > 0 {
				b.WriteByte('\t')
			}
			b.WriteString(printable(cell))
		}
		if ended {
			b.WriteByte('\n')
		}
	}
	return b.String()
}

// unprintable: control characters, those that format (Cf: directions, zero-width
// ones), line and paragraph separators.
func unprintable(c rune) bool {
	return unicode.IsControl(c) || unicode.In(c, unicode.Cf, unicode.Zl, unicode.Zp)
}

func escapeRune(b *strings.Builder, c rune) {
	if c > 0xffff {
		high, low := utf16.EncodeRune(c)
		fmt.Fprintf(b, `\u%04x\u%04x`, high, low)
		return
	}
	fmt.Fprintf(b, `\u%04x`, c)
}

// showAll prints a list that a reply holds as the given member, or the one thing
// that it is, a row each under the head.
func showAll(g *Globals, out io.Writer, reply gjson.Result, err error, member string, head []string, row func(gjson.Result) []string) error {
	switch {
	case err != nil:
		return err
	case g.JSON:
		return printJSON(out, reply)
	}
	list := []gjson.Result{reply}
	if many := reply.Get(member); many.Exists() {
		list = many.Array()
	}
	rows := [][]string{head}
	for _, r := range list {
		rows = append(rows, row(r))
	}
	return table(out, rows)
}

// showOne prints the given members of a reply, a row each.
func showOne(g *Globals, out io.Writer, reply gjson.Result, err error, members ...string) error {
	switch {
	case err != nil:
		return err
	case g.JSON:
		return printJSON(out, reply)
	}
	var rows [][]string
	for _, name := range members {
		rows = append(rows, []string{name, dash(reply.Get(name))})
	}
	return table(out, rows)
}

// end deletes what is at path, and says so: did is the word for it, member what
// it is called by.
func (r *Remote) end(ctx context.Context, g *Globals, out io.Writer, path, member, name, did string) error {
	if _, err := r.call(ctx, http.MethodDelete, path, nil); err != nil {
		return err
	}
	if g.JSON {
		return printJSON(out, gjson.Parse(fmt.Sprintf(`{%q:%q,%q:true}`, member, name, did)))
	}
	fmt.Fprintln(out, did, name)
	return nil
}

// table prints aligned columns; the first row is the head.
func table(out io.Writer, rows [][]string) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		for i := range row {
			row[i] = printable(row[i])
		}
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	return w.Flush()
}

// dash stands for what there is not.
func dash(v gjson.Result) string {
	if v.Type == gjson.Null || v.String() == "" {
		return "-"
	}
	return v.String()
}
