package sandbox

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/traefik/yaegi/interp"
)

// Command is the argument by which the binary becomes the child.
const Command = "task-runner"

// Main is the child: it confines itself, reads one script from standard input,
// runs it, and returns the exit code. It must be what the process does first.
func Main() int {
	c := &child{in: os.Stdin, out: os.Stdout}
	if err := confine(processorTime); err != nil {
		_ = writeFrame(c.out, frame{kindRefused, []string{err.Error()}})
		return 1
	}
	if err := writeFrame(c.out, frame{kindReady, nil}); err != nil {
		return 1
	}
	job, err := readFrame(c.in)
	result := ""
	switch {
	case err != nil:
		return 1
	case job.kind == kindRun && len(job.fields)%2 == 1:
		settings := map[string]string{}
		for i := 1; i < len(job.fields); i += 2 {
			settings[job.fields[i]] = job.fields[i+1]
		}
		result, err = c.interpret(job.fields[0], settings)
	case job.kind == kindCompile && len(job.fields) == 1:
		_, _, err = c.compile(job.fields[0], nil)
	default:
		return 1
	}
	text := ""
	if err != nil {
		text = orUnknown(err.Error())
	}
	if c.send(frame{kindDone, []string{head(result, maxResult), head(text, maxResult)}}) != nil {
		return 1
	}
	return 0
}

func orUnknown(s string) string {
	if s == "" {
		return "the script failed, and does not say why"
	}
	return s
}

// child is the process that runs a script.
type child struct {
	in  io.Reader
	out io.Writer

	call    sync.Mutex // one question at a time: its answer is the next frame
	write   sync.Mutex
	written int // bytes of output sent
}

func (c *child) send(f frame) error {
	c.write.Lock()
	defer c.write.Unlock()
	return writeFrame(c.out, f)
}

// ask sends a question and returns the fields of its answer.
func (c *child) ask(kind byte, fields ...string) ([]string, error) {
	c.call.Lock()
	defer c.call.Unlock()
	if err := c.send(frame{kind, fields}); err != nil {
		return nil, err
	}
	f, err := readFrame(c.in)
	switch {
	case err != nil:
		os.Exit(1) // the parent is gone
	case f.kind == kindError && len(f.fields) == 1:
		return nil, errors.New(f.fields[0])
	case f.kind != kindAnswer:
		os.Exit(1)
	}
	return f.fields, nil
}

// Write implements io.Writer: what a script prints, up to a bound.
func (c *child) Write(p []byte) (int, error) {
	c.write.Lock()
	defer c.write.Unlock()
	const piece = 16 << 10
	for rest := p[:min(len(p), max(0, maxOutput+1-c.written))]; len(rest) > 0; {
		n := min(len(rest), piece)
		if err := writeFrame(c.out, frame{kindOutput, []string{string(rest[:n])}}); err != nil {
			return 0, err
		}
		c.written += n
		rest = rest[n:]
	}
	return len(p), nil
}

// compile returns the script, of which nothing has run, and what runs it. A panic of
// the interpreter is an error.
func (c *child) compile(script string, settings map[string]string) (i *interp.Interpreter, program *interp.Program, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	source, err := prepare(script)
	if err != nil {
		return nil, nil, err
	}
	i = interp.New(interp.Options{
		GoPath: "/nowhere", Stdin: strings.NewReader(""), Stdout: c, Stderr: io.Discard, Args: []string{}, Env: []string{}, SourcecodeFilesystem: noFiles{},
	})
	for key, symbols := range c.exports(settings) {
		// One at a time, and with a dot in the key of fmt: the interpreter takes a
		// set with "fmt/fmt" for the whole library, and puts in more of its own.
		if err := i.Use(interp.Exports{strings.Replace(key, "fmt/", "fmt/./", 1): symbols}); err != nil {
			return nil, nil, err
		}
	}
	if program, err = i.Compile(source); err != nil {
		return nil, nil, tidy(err)
	}
	return i, program, nil
}

// interpret runs the script's Run. A panic of the script is an error.
func (c *child) interpret(script string, settings map[string]string) (result string, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	i, program, err := c.compile(script, settings)
	if err != nil {
		return "", err
	}
	if _, err := i.Execute(program); err != nil {
		return "", tidy(err)
	}
	found, err := i.Eval("task.Run")
	if err != nil {
		return "", tidy(err)
	}
	run, ok := found.Interface().(func() (string, error))
	if !ok {
		return "", errors.New("want func Run() (string, error)")
	}
	return run()
}

// tidy takes the interpreter's name for the source from an error.
func tidy(err error) error {
	text := strings.ReplaceAll(err.Error(), interp.DefaultSourceName+":", "")
	if text != "" && text[0] >= '1' && text[0] <= '9' {
		text = "line " + text
	}
	return errors.New(text)
}

// noFiles is a file system with nothing in it.
type noFiles struct{}

// Open implements fs.FS.
func (noFiles) Open(name string) (fs.File, error) {
	return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
}

// Approver is somebody who was asked to decide a request, as scripts see them.
type Approver struct {
	ID, Email, Name string
}

// Header are the headers of a response, as scripts see them.
type Header map[string][]string

// Get returns the first value of a header, "" without one.
func (h Header) Get(name string) string {
	for k, v := range h {
		if strings.EqualFold(k, name) && len(v) > 0 {
			return v[0]
		}
	}
	return ""
}

// Response is what http.Get and http.Post return to scripts.
type Response struct {
	Status        string
	StatusCode    int
	Header        Header
	Body          io.ReadCloser
	ContentLength int64
}

// exports are the packages of a script.
func (c *child) exports(settings map[string]string) interp.Exports {
	all := standard()
	f := all["fmt/fmt"]
	f["Print"] = reflect.ValueOf(func(a ...any) (int, error) { return fmt.Fprint(c, a...) })
	f["Printf"] = reflect.ValueOf(func(format string, a ...any) (int, error) { return fmt.Fprintf(c, format, a...) })
	f["Println"] = reflect.ValueOf(func(a ...any) (int, error) { return fmt.Fprintln(c, a...) })
	all["config/config"] = map[string]reflect.Value{
		"Get": reflect.ValueOf(func(key string) string { return settings[strings.TrimPrefix(key, "event.")] }),
	}
	all["secrets/secrets"] = map[string]reflect.Value{
		"Get": reflect.ValueOf(func(name string) string {
			answer, err := c.ask(kindSecret, name)
			if err != nil || len(answer) != 1 {
				panic(fmt.Errorf("secret %s: %w", head(name, 128), cmpErr(err)))
			}
			return answer[0]
		}),
	}
	all["idp/idp"] = map[string]reflect.Value{
		"Approver": reflect.ValueOf((*Approver)(nil)),
		"GetAccessRequestApprovers": reflect.ValueOf(func(requestID string) ([]Approver, error) {
			answer, err := c.ask(kindApprovers, requestID)
			var list []Approver
			for ; err == nil && len(answer) >= 3; answer = answer[3:] {
				list = append(list, Approver{answer[0], answer[1], answer[2]})
			}
			return list, err
		}),
	}
	all["net/http/http"] = map[string]reflect.Value{
		"Response": reflect.ValueOf((*Response)(nil)),
		"Header":   reflect.ValueOf((*Header)(nil)),
		"Get":      reflect.ValueOf(func(url string) (*Response, error) { return c.fetch("GET", url, "", nil) }),
		"Post": reflect.ValueOf(func(url, contentType string, body io.Reader) (*Response, error) {
			return c.fetch("POST", url, contentType, body)
		}),
	}
	for name, code := range map[string]int{
		"StatusOK": 200, "StatusCreated": 201, "StatusAccepted": 202, "StatusNoContent": 204, "StatusBadRequest": 400, "StatusUnauthorized": 401,
		"StatusForbidden": 403, "StatusNotFound": 404, "StatusConflict": 409, "StatusTooManyRequests": 429,
		"StatusInternalServerError": 500, "StatusBadGateway": 502, "StatusServiceUnavailable": 503, "StatusGatewayTimeout": 504,
	} {
		all["net/http/http"][name] = reflect.ValueOf(code)
	}
	return all
}

func cmpErr(err error) error {
	if err == nil {
		return errFrame
	}
	return err
}

func (c *child) fetch(method, url, contentType string, body io.Reader) (*Response, error) {
	var content []byte
	if body != nil {
		var err error
		if content, err = io.ReadAll(io.LimitReader(body, maxBody+1)); err != nil {
			return nil, err
		}
		if len(content) > maxBody {
			return nil, fmt.Errorf("%s %s: the body is larger than %d bytes", method, url, maxBody)
		}
	}
	answer, err := c.ask(kindFetch, method, url, contentType, string(content))
	if err != nil {
		return nil, err
	}
	if len(answer) < 2 || len(answer)%2 != 0 {
		return nil, errFrame
	}
	code, err := strconv.Atoi(answer[0])
	if err != nil {
		return nil, errFrame
	}
	r := &Response{
		Status: answer[0], StatusCode: code, Header: Header{}, ContentLength: int64(len(answer[1])),
		Body: io.NopCloser(bytes.NewReader([]byte(answer[1]))),
	}
	for i := 2; i < len(answer); i += 2 {
		r.Header[answer[i]] = append(r.Header[answer[i]], answer[i+1])
	}
	return r, nil
}

// processorTime is what a run may use of a processor.
const processorTime = 10 * time.Second
