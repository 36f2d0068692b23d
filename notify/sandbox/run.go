package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"
)

// Bounds of a run. Further ones, of the process, are in confine.
const (
	// MaxWall is how long a run may take, from the start of its process.
	MaxWall   = 30 * time.Second
	maxOutput = 64 << 10
	maxResult = 16 << 10
	maxBody   = 512 << 10 // of a request or a response
	maxFetch  = 32        // requests
	maxAsk    = 1000      // questions of any kind
	maxStderr = 4 << 10
)

// Host is what a script may ask the server for. It is called with whatever a
// hostile child may send; an error is told to the script, so its text must be fit
// for who wrote it.
type Host interface {
	// Secret returns the value of a secret that the script may have.
	Secret(ctx context.Context, name string) (string, error)
	// Fetch makes an HTTP request, as far as it is permitted, and follows nothing.
	Fetch(ctx context.Context, r Request) (Answer, error)
	// Approvers returns who was told of an access request.
	Approvers(ctx context.Context, request string) ([]Approver, error)
}

// Request is an HTTP request of a script: GET, or POST with a body.
type Request struct {
	Method, URL, ContentType string
	Body                     []byte
}

// Answer is the response to it. What is past MaxBody of Body must be left out by
// who makes it.
type Answer struct {
	Status int
	Header map[string]string
	Body   []byte
}

// MaxBody is how much of a response's body a script is given, in bytes.
const MaxBody = maxBody

// Job is one run of a script.
type Job struct {
	Script string
	Config map[string]string // what config.Get returns
	Host   Host
	Wall   time.Duration // at most MaxWall, which 0 stands for

	compile bool // and no more
}

// Outcome is what became of a run. The zero Outcome is no success: Done says that
// Run returned without an error.
type Outcome struct {
	Done   bool
	Result string // what Run returned
	Error  string // what it returned, or what else ended the run
	Output string // what it printed, up to a bound
	Cut    bool   // there was more
	// TimedOut says that the time of the run was over.
	TimedOut bool
}

// ErrUnavailable is the error of a run that did not take place, since the child
// cannot be confined here.
var ErrUnavailable = errors.New("scripts cannot be confined on this machine")

// Runner starts children. Safe for concurrent use.
type Runner struct {
	binary string
	slots  chan struct{}
}

// New makes one that runs at most so many scripts at a time. The binary is this
// process's own, whatever has been put in its place since.
func New(most int) *Runner {
	return &Runner{binary: "/proc/self/exe", slots: make(chan struct{}, most)}
}

// Probe runs a script that does nothing, to tell whether scripts can be run.
func (r *Runner) Probe(ctx context.Context) error {
	out, err := r.Run(ctx, Job{Script: "package task\nfunc Run() (string, error) { return \"ready\", nil }\n"})
	switch {
	case err != nil:
		return err
	case !out.Done || out.Result != "ready":
		return fmt.Errorf("%w: %s", ErrUnavailable, out.Error)
	}
	return nil
}

// Compile returns a sentence that says why a script does not compile, "" where it
// does. It is compiled where it would be run, for who wrote the interpreter did not
// expect to be attacked; nothing of it runs. The error is Run's.
func (r *Runner) Compile(ctx context.Context, script string) (why string, err error) {
	out, err := r.Run(ctx, Job{Script: script, compile: true})
	return out.Error, err
}

// Run runs a script in a child of its own, and waits. An error says that it was
// not run, or that nobody can tell: ErrUnavailable, the context's, or that of
// starting a process. Whatever the script itself does is in the outcome.
func (r *Runner) Run(ctx context.Context, job Job) (Outcome, error) {
	select {
	case r.slots <- struct{}{}:
		defer func() { <-r.slots }()
	case <-ctx.Done():
		return Outcome{}, ctx.Err()
	}
	wall := MaxWall
	if job.Wall > 0 && job.Wall < wall {
		wall = job.Wall
	}
	limited, cancel := context.WithTimeout(ctx, wall)
	defer cancel()
	out, err := r.run(limited, job)
	switch {
	case ctx.Err() != nil:
		return Outcome{}, ctx.Err()
	case err != nil && limited.Err() == nil:
		return Outcome{}, err
	case limited.Err() != nil && !out.Done:
		out.TimedOut, out.Error = true, fmt.Sprintf("the script took longer than %s", wall)
	}
	return out, nil
}

func (r *Runner) run(ctx context.Context, job Job) (out Outcome, err error) {
	// The death signal below is sent when the thread that forked ends, so it must
	// be one that lasts as long as the child.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(ctx, r.binary, Command) //nolint:gosec // its own binary
	cmd.Args = []string{"latchkey", Command}
	cmd.Env = []string{}
	cmd.Dir = "/"
	separate(cmd)
	stderr := &headWriter{most: maxStderr}
	cmd.Stderr = stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return out, fmt.Errorf("start a script: %w", err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return out, fmt.Errorf("start a script: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return out, fmt.Errorf("start a script: %w", err)
	}
	s := &session{job: job, in: stdin, from: stdout}
	talked := s.talk(ctx)
	_ = cmd.Cancel() // it has nothing more to do, whether it knows it or not
	_ = cmd.Wait()   // killed, most of the time
	s.out.Output = strings.ToValidUTF8(s.output.String(), "\uFFFD")
	if errors.Is(talked, ErrUnavailable) {
		return s.out, talked
	}
	if talked != nil && s.out.Error == "" {
		s.out.Error = diagnosis(stderr.String(), cmd.ProcessState.Sys(), talked)
	}
	return s.out, nil
}

// diagnosis says why a child ended without a word. Of its trace only what the Go
// runtime says first is told: the rest are addresses.
func diagnosis(stderr string, state any, talked error) string {
	for line := range strings.Lines(stderr) {
		line = strings.TrimSpace(line)
		switch {
		case strings.Contains(line, "out of memory"), strings.Contains(line, "cannot allocate memory"):
			return "the script used more memory than it may"
		case strings.Contains(line, "stack overflow"), strings.Contains(line, "stack exceeds"):
			return "the script called itself without end"
		case strings.HasPrefix(line, "fatal error: "), strings.HasPrefix(line, "panic: "):
			return head(line, 300)
		}
	}
	if w, ok := state.(syscall.WaitStatus); ok && w.Signaled() && w.Signal() == syscall.SIGKILL && errors.Is(talked, io.EOF) {
		return "the script used more processor time than it may"
	}
	return "the script's process ended before the script did"
}

// session is the parent's side of the pipes.
type session struct {
	job    Job
	in     io.Writer
	from   io.Reader
	out    Outcome
	output bytes.Buffer
	asked  int
	fetch  int
}

var errProtocol = errors.New("the script's process broke its protocol")

// talk answers the child until it is done. Everything that it says is taken for
// hostile: what is malformed, out of place or too much ends the run.
func (s *session) talk(ctx context.Context) error {
	f, err := readFrame(s.from)
	switch {
	case err != nil:
		return err
	case f.kind == kindRefused && len(f.fields) == 1:
		return fmt.Errorf("%w: %s", ErrUnavailable, head(f.fields[0], 300))
	case f.kind != kindReady || len(f.fields) != 0:
		return s.broken()
	}
	run := frame{kindRun, []string{s.job.Script}}
	for _, key := range slices.Sorted(maps.Keys(s.job.Config)) {
		run.fields = append(run.fields, key, s.job.Config[key])
	}
	if s.job.compile {
		run = frame{kindCompile, []string{s.job.Script}}
	}
	if err := writeFrame(s.in, run); err != nil {
		return err
	}
	for {
		f, err := readFrame(s.from)
		if errors.Is(err, errFrame) {
			return s.broken()
		}
		if err != nil {
			return err
		}
		switch {
		case f.kind == kindOutput && len(f.fields) == 1:
			if s.out.Cut {
				return s.broken() // the child has been told nothing, but knows where to stop
			}
			room := maxOutput - s.output.Len()
			s.out.Cut = len(f.fields[0]) > room
			s.output.WriteString(f.fields[0][:min(room, len(f.fields[0]))])
		case f.kind == kindDone && len(f.fields) == 2:
			s.out.Result, s.out.Error = head(f.fields[0], maxResult), head(f.fields[1], maxResult)
			s.out.Done = s.out.Error == ""
			return nil
		default:
			if s.asked++; s.asked > maxAsk {
				return s.broken()
			}
			answer, err := s.answer(ctx, f)
			if errors.Is(err, errProtocol) {
				return s.broken()
			}
			if err != nil {
				answer = frame{kindError, []string{head(err.Error(), 1000)}}
			}
			if err := writeFrame(s.in, answer); err != nil {
				return err
			}
		}
	}
}

func (s *session) broken() error {
	s.out.Error = errProtocol.Error()
	return errProtocol
}

func (s *session) answer(ctx context.Context, f frame) (frame, error) {
	switch {
	case f.kind == kindSecret && len(f.fields) == 1:
		value, err := s.job.Host.Secret(ctx, f.fields[0])
		return frame{kindAnswer, []string{value}}, err
	case f.kind == kindApprovers && len(f.fields) == 1:
		list, err := s.job.Host.Approvers(ctx, f.fields[0])
		answer := frame{kindAnswer, nil}
		for _, a := range list[:min(len(list), maxFields/3)] {
			answer.fields = append(answer.fields, a.ID, a.Email, a.Name)
		}
		return answer, err
	case f.kind == kindFetch && len(f.fields) == 4:
		r := Request{Method: f.fields[0], URL: f.fields[1], ContentType: f.fields[2], Body: []byte(f.fields[3])}
		if r.Method != "GET" && r.Method != "POST" || len(r.Body) > maxBody || r.Method == "GET" && len(r.Body) > 0 {
			return frame{}, errProtocol
		}
		if s.fetch++; s.fetch > maxFetch {
			return frame{}, fmt.Errorf("a run may make %d requests", maxFetch)
		}
		got, err := s.job.Host.Fetch(ctx, r)
		if err != nil {
			return frame{}, err
		}
		answer := frame{kindAnswer, []string{strconv.Itoa(got.Status), string(got.Body[:min(len(got.Body), maxBody)])}}
		room := 32 << 10
		for _, name := range slices.Sorted(maps.Keys(got.Header)) {
			if room -= len(name) + len(got.Header[name]); room < 0 || len(answer.fields)+2 > maxFields {
				break
			}
			answer.fields = append(answer.fields, name, got.Header[name])
		}
		return answer, nil
	}
	return frame{}, errProtocol
}

// headWriter keeps the beginning of what is written.
type headWriter struct {
	most int
	bytes.Buffer
}

// Write implements io.Writer.
func (h *headWriter) Write(p []byte) (int, error) {
	h.Buffer.Write(p[:min(len(p), max(0, h.most-h.Len()))])
	return len(p), nil
}

// head cuts a text to at most so many bytes, in valid UTF-8.
func head(s string, most int) string {
	if len(s) > most {
		s = s[:most]
		for len(s) > 0 && !utf8.RuneStart(s[len(s)-1]) {
			s = s[:len(s)-1]
		}
		if len(s) > 0 && s[len(s)-1] >= utf8.RuneSelf {
			s = s[:len(s)-1]
		}
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}
