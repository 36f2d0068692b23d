package main

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/notify"
)

// DecisionLog are the flags of the decision log.
type DecisionLog struct {
	Target       string        `name:"decision-log" help:"Where decisions are logged, as events of OPA's decision log: off, stdout, file:PATH, or a URL (http or https) that they are uploaded to." default:"off" env:"LATCHKEY_DECISION_LOG" placeholder:"TARGET"`
	Buffer       int           `name:"decision-log-buffer" help:"Bytes of decisions that may wait for the target." default:"16777216" env:"LATCHKEY_DECISION_LOG_BUFFER"`
	Overflow     string        `name:"decision-log-overflow" help:"What a decision does that finds no room: drop (it is given, its event is lost and counted) or block (it waits, and is not given without its event)." enum:"drop,block" default:"drop" env:"LATCHKEY_DECISION_LOG_OVERFLOW"`
	Mask         []string      `name:"decision-log-mask" help:"JSON pointers to what is left out of events, as /input/context/password." env:"LATCHKEY_DECISION_LOG_MASK" placeholder:"POINTER"`
	SampleAllows float64       `name:"decision-log-sample-allows" help:"Share of allows to log, 0 to 1; denies are always logged." default:"1" env:"LATCHKEY_DECISION_LOG_SAMPLE_ALLOWS"`
	Delay        time.Duration `name:"decision-log-delay" help:"Time that decisions wait to be uploaded together." default:"1s" env:"LATCHKEY_DECISION_LOG_DELAY"`
	TokenFile    string        `name:"decision-log-token-file" help:"File of the bearer token for uploads, read for each; or the token itself in the environment variable LATCHKEY_DECISION_LOG_TOKEN." type:"path" env:"LATCHKEY_DECISION_LOG_TOKEN_FILE" placeholder:"FILE"`
}

// tokenVariable holds the token where there is no file of it.
const tokenVariable = "LATCHKEY_DECISION_LOG_TOKEN" //nolint:gosec // its name

// leastBuffer is room for a few decisions of the largest size.
const leastBuffer = 1 << 20

func (d *DecisionLog) validate() error {
	if _, err := audit.ParseMasks(d.Mask); err != nil {
		return usage("--decision-log-mask: %w", err)
	}
	path, isFile := strings.CutPrefix(d.Target, "file:")
	switch {
	case d.Buffer < leastBuffer:
		return usage("--decision-log-buffer: want at least %d", leastBuffer)
	case d.SampleAllows < 0 || d.SampleAllows > 1:
		return usage("--decision-log-sample-allows: want 0 to 1")
	case d.Delay < 0 || d.Delay > time.Hour:
		return usage("--decision-log-delay: want 0s to 1h")
	case isFile && path == "":
		return usage("--decision-log: want file:PATH")
	case isFile, d.Target == "off", d.Target == "stdout":
		return nil
	}
	u, err := url.Parse(d.Target)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil {
		return usage("--decision-log: want off, stdout, file:PATH, or an http or https URL without a user")
	}
	if u.Scheme == "http" && d.token() != nil && !local(hostPort(u)) {
		return usage("--decision-log %s would send the token in plain text over the network: use https", d.Target)
	}
	return nil
}

func hostPort(u *url.URL) string {
	if u.Port() == "" {
		return u.Host + ":80"
	}
	return u.Host
}

// token returns what yields the bearer token, nil where there is none.
func (d *DecisionLog) token() func() (string, error) {
	if d.TokenFile == "" {
		if token := os.Getenv(tokenVariable); token != "" {
			return func() (string, error) { return token, nil }
		}
		return nil
	}
	return func() (string, error) {
		text, err := os.ReadFile(d.TokenFile)
		if err != nil {
			return "", err
		}
		token := strings.TrimSpace(string(text))
		if token == "" || strings.ContainsFunc(token, func(c rune) bool { return c <= ' ' || c > '~' }) {
			return "", errors.New("the file does not hold one")
		}
		return token, nil
	}
}

// open makes the decision log, nil where it is off.
func (d *DecisionLog) open(with nodeConfig, registry *prometheus.Registry) (*notify.DecisionLog, error) {
	masks, err := audit.ParseMasks(d.Mask)
	if err != nil {
		return nil, usage("--decision-log-mask: %w", err)
	}
	var sink notify.Sink
	delay := time.Duration(0)
	path, isFile := strings.CutPrefix(d.Target, "file:")
	switch {
	case d.Target == "off":
		return nil, nil
	case d.Target == "stdout":
		sink = notify.NewWriterSink(with.stdout)
	case isFile:
		sink, err = notify.NewFileSink(path)
	default:
		delay = d.Delay
		sink, err = notify.NewUploadSink(notify.UploadConfig{URL: d.Target, Token: d.token()})
	}
	if err != nil {
		return nil, fmt.Errorf("--decision-log: %w", err)
	}
	return notify.NewDecisionLog(notify.DecisionLogConfig{
		Sink: sink, Log: with.log, Registry: registry, Labels: map[string]string{"id": with.id, "version": version()},
		Buffer: d.Buffer, Block: d.Overflow == "block", SampleAllows: d.SampleAllows, Masks: masks, Redact: authz.Redact, Delay: delay,
	})
}
