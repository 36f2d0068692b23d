package main

import (
	"fmt"
	"math"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/latchkey-dev/latchkey/notify"
)

// OnCall are the flags of automatic approval. The keys of providers come from the
// environment alone, or from files (secretSettings).
type OnCall struct {
	IncidentIOURL      string   `name:"incidentio-url" help:"incident.io, where it is not https://api.incident.io. Its key comes from the environment variable LATCHKEY_INCIDENTIO_KEY." env:"LATCHKEY_INCIDENTIO_URL" placeholder:"URL"`
	IncidentIORoles    []string `name:"incidentio-roles" help:"Roles in incidents that count, by name or short form, to the letter; every role where empty." sep:"," env:"LATCHKEY_INCIDENTIO_ROLES" placeholder:"ROLE"`
	PagerDutyURL       string   `name:"pagerduty-url" help:"PagerDuty, where it is not https://api.pagerduty.com. Its key comes from the environment variable LATCHKEY_PAGERDUTY_KEY." env:"LATCHKEY_PAGERDUTY_URL" placeholder:"URL"`
	PagerDutySchedules []string `name:"pagerduty-schedules" help:"Ids of the schedules that count; every schedule and escalation policy where empty." sep:"," env:"LATCHKEY_PAGERDUTY_SCHEDULES" placeholder:"ID"`
	WebhookURL         string   `name:"decision-webhook-url" help:"A webhook of one's own that is asked who is on call. What it is sent is signed with the secret in the environment variable LATCHKEY_DECISION_WEBHOOK_SECRET." env:"LATCHKEY_DECISION_WEBHOOK_URL" placeholder:"URL"`
	Duration           string   `name:"auto-approval-duration" help:"Hours that what providers approve lasts at most, as a decimal number." default:"6" env:"LATCHKEY_AUTO_APPROVAL_DURATION" placeholder:"HOURS"`
}

// Where the secrets of providers are in the environment.
const (
	incidentIOKey = "LATCHKEY_INCIDENTIO_KEY"
	pagerDutyKey  = "LATCHKEY_PAGERDUTY_KEY"
	webhookSecret = "LATCHKEY_DECISION_WEBHOOK_SECRET" //nolint:gosec // its name
)

// onCallSecret reads one, "" where there is none.
func onCallSecret(variable string) (string, error) {
	secret := os.Getenv(variable)
	for _, c := range secret {
		if c <= ' ' || c > '~' { // no header could hold it
			return "", usage("%s: want printable ASCII without spaces", called(variable))
		}
	}
	return secret, nil
}

// onCallTimeout bounds one call to a provider; all of them together have less.
const onCallTimeout = 5 * time.Second

// providers are those that are configured. What is configured by half refuses to
// start: an operator who names roles and has a typo in the variable of the key would
// wonder for long.
func (o *OnCall) providers(guard *notify.Guard) (list []notify.OnCallProvider, err error) {
	add := func(flag string, p notify.OnCallProvider, err error) error {
		if err != nil {
			return usage("--%s: %w", flag, err)
		}
		list = append(list, p)
		return nil
	}
	key, err := onCallSecret(incidentIOKey)
	roles := names(o.IncidentIORoles)
	switch {
	case err != nil:
		return nil, err
	case key == "" && (o.IncidentIOURL != "" || len(roles) > 0):
		return nil, usage("incident.io is configured without its key: set %s", called(incidentIOKey))
	case key != "":
		if err := overTLS("incidentio-url", o.IncidentIOURL); err != nil {
			return nil, err
		}
		p, err := notify.NewIncidentIO(notify.IncidentIOConfig{URL: o.IncidentIOURL, Key: key, Roles: roles, Client: guard.Client(onCallTimeout)})
		if err := add("incidentio-url", p, err); err != nil {
			return nil, err
		}
	}
	key, err = onCallSecret(pagerDutyKey)
	schedules := names(o.PagerDutySchedules)
	switch {
	case err != nil:
		return nil, err
	case key == "" && (o.PagerDutyURL != "" || len(schedules) > 0):
		return nil, usage("PagerDuty is configured without its key: set %s", called(pagerDutyKey))
	case key != "":
		if err := overTLS("pagerduty-url", o.PagerDutyURL); err != nil {
			return nil, err
		}
		p, err := notify.NewPagerDuty(notify.PagerDutyConfig{URL: o.PagerDutyURL, Key: key, Schedules: schedules, Client: guard.Client(onCallTimeout)})
		if err := add("pagerduty-url", p, err); err != nil {
			return nil, err
		}
	}
	secret, err := onCallSecret(webhookSecret)
	switch {
	case err != nil:
		return nil, err
	case secret == "" && o.WebhookURL != "":
		return nil, usage("--decision-webhook-url is set without a secret: set %s", called(webhookSecret))
	case secret != "" && o.WebhookURL == "":
		return nil, usage("%s is set without --decision-webhook-url: it is the secret of a webhook of your own, which other providers do not need", called(webhookSecret))
	case secret != "":
		if err := overTLS("decision-webhook-url", o.WebhookURL); err != nil {
			return nil, err
		}
		p, err := notify.NewDecisionWebhook(notify.DecisionWebhookConfig{URL: o.WebhookURL, Secret: secret, Client: guard.Client(onCallTimeout)})
		if err := add("decision-webhook-url", p, err); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// overTLS refuses an address that would send a key in plain text over the network.
func overTLS(flag, text string) error {
	if u, err := url.Parse(text); err == nil && u.Scheme == "http" && !local(hostPort(u)) {
		return usage("--%s would send a key in plain text over the network: use https", flag)
	}
	return nil
}

// names trims a list that came by commas.
func names(list []string) (all []string) {
	for _, name := range list {
		if name = strings.TrimSpace(name); name != "" {
			all = append(all, name)
		}
	}
	return all
}

var hoursText = regexp.MustCompile(`^[0-9]{1,4}(\.[0-9]{1,6})?$`)

// longest is how long an automatic approval lasts at most: whole minutes, from one
// to a year.
func (o *OnCall) longest() (time.Duration, error) {
	text := strings.TrimSpace(o.Duration)
	hours, err := strconv.ParseFloat(text, 64)
	d := time.Duration(math.Round(hours * float64(time.Hour))).Truncate(time.Minute)
	if err != nil || !hoursText.MatchString(text) || d < time.Minute || d > 8760*time.Hour {
		return 0, usage("--auto-approval-duration: want hours as a decimal number from 0.02 to 8760, such as 3 or 1.5, got %q", o.Duration)
	}
	return d, nil
}

func (o *OnCall) validate() error {
	if _, err := o.longest(); err != nil {
		return err
	}
	_, err := o.providers(notify.NewGuard(notify.GuardConfig{}))
	return err
}

// open makes what decides on automatic approvals.
func (o *OnCall) open(guard *notify.Guard, registry *prometheus.Registry) (*notify.AutoApproval, error) {
	providers, err := o.providers(guard)
	if err != nil {
		return nil, err
	}
	longest, err := o.longest()
	if err != nil {
		return nil, err
	}
	a, err := notify.NewAutoApproval(notify.NewOnCall(registry, providers...), longest)
	if err != nil {
		return nil, fmt.Errorf("automatic approval: %w", err)
	}
	return a, nil
}
