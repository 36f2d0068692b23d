package server

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strconv"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/access"
	"github.com/latchkey-dev/latchkey/authz"
)

// jobReply is the envelope of the group.
type jobReply struct {
	Success         bool    `json:"success"`
	Result          any     `json:"Result"`
	Message         *string `json:"Message"`
	MessageID       *string `json:"MessageID"`
	Exception       *string `json:"Exception"`
	ErrorID         *string `json:"ErrorID"`
	ErrorCode       *string `json:"ErrorCode"`
	InnerExceptions *string `json:"InnerExceptions"`
}

func appendJobReply(b []byte, reply jobReply) []byte {
	return append(b, jobJSON(reply)...)
}

// jobJSON writes values of the types of this file, of which every one can be
// written.
func jobJSON(v any) []byte {
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic(err)
	}
	return bytes.TrimSuffix(out.Bytes(), []byte("\n"))
}

// account is one that somebody may log in to.
type account struct {
	ID              string `json:"accountId"`
	Name            string `json:"name"`
	Authority       string `json:"authority"`
	AuthorityType   string `json:"authorityType"`
	RequestRequired bool   `json:"requestRequired"`
	host            string
}

func accountOf(r authz.ResourceRecord) account {
	var labels struct{ Host, Authority, AuthorityType string }
	var named map[string]string
	if json.Unmarshal([]byte(r.Labels), &named) == nil {
		labels.Host, labels.Authority, labels.AuthorityType = named["host"], named["authority"], named["authorityType"]
	}
	a := account{ID: r.ID, Name: r.DisplayName, Authority: labels.Authority, AuthorityType: labels.AuthorityType, host: labels.Host}
	if a.Name == "" {
		a.Name = r.ID
	}
	if a.AuthorityType == "" {
		a.AuthorityType = "Local"
	}
	return a
}

// accountCache spares a list to read an account twice.
type accountCache map[string]account

// jobList is the Result of GetMyJobs.
type jobList struct {
	IsAggregate bool
	Count       int
	Columns     []jobColumn
	FullCount   int
	Results     []jobRow
	ReturnID    string
}

type jobRow struct {
	Entities []jobEntity
	Row      jobRecord
}

type jobEntity struct {
	Type, Key    string
	IsForeignKey bool
}

type jobColumn struct {
	Name        string
	IsHidden    bool
	DDName      *string
	Title       string
	DDTitle     *string
	Description *string
	Type        int // of SQL, as JDBC numbers them
	Format      *string
	Width       int
	TableKey    *string
	ForeignKey  *string
	TableName   *string
}

// jobRecord is a job as a row of a list, and jobResult as itself: the members that
// the other product's document shows.
type jobRecord struct {
	TargetPrincipalType    string
	EntityContext          string `json:"_entitycontext"`
	MobileNotificationData string
	Metadata               jobMetadata `json:"_metadata"`
	ACL                    string
	InitiatorID            string
	PartitionKey           string  `json:"_PartitionKey"`
	Timestamp              jobTime `json:"_Timestamp"`
	StepNum                int
	EncryptKeyID           string `json:"_encryptkeyid"`
	ID                     string
	StateUpdatedDate       jobTime
	Description            string
	TargetPrincipalName    string
	BlessAs                string
	DefaultOptions         string
	Context                jobContext
	StepArgs               string
	Initiator              string
	LastHistoryEntry       string
	TargetPrincipalID      string
	CreatedDate            jobTime
	TraceFile              string
	TableName              string `json:"_TableName"`
	History                string
	CanReadLogs            bool
	TotalStepNum           int
	OptionsSelector        int
	State                  string
	JS                     string
}

type jobResult struct {
	TotalStepNum           int
	WorkflowSettings       string
	Context                jobContext
	InitiatorID            string
	DefaultOptions         string
	ErrorMessage           *string
	EntityContext          string `json:"_entitycontext"`
	MobileNotificationData string
	JS                     string
	TableName              string `json:"_TableName"`
	TraceFile              string
	State                  string
	TargetPrincipalID      string
	RowKey                 string `json:"_RowKey"`
	SelectedOptions        string
	EncryptKeyID           string `json:"_encryptkeyid"`
	PartitionKey           string `json:"_PartitionKey"`
	TargetPrincipalType    string
	StepArgs               string
	Metadata               jobMetadata `json:"_metadata"`
	History                string
	Description            string
	DescriptionJSON        string `json:"DescriptionJson"`
	OptionsSelector        int
	BlessAs                string
	StateUpdatedDate       jobTime
	StepNum                int
	Timestamp              jobTime `json:"_Timestamp"`
	Initiator              string
	EndTime                *jobZoned
	ACL                    string
	CreatedDate            jobTime
	StartTime              *jobZoned
	TargetPrincipalName    string
}

type jobMetadata struct{ Version, IndexingVersion int }

type jobContext struct {
	RequestorUserName      string
	Authority              string
	RequestorMail          string
	RequestorDisplayName   string
	EventPrincipalUUID     string
	EventPrincipalUserName string
	AccessType             string
	EventPrincipalMail     string
	PVID                   string
	AccountName            string
	RequestedOptions       jobOptions
	HostID                 string
	Bookmarks              string
	DefaultGrantMinutes    int64
	RequestorUUID          string
}

type jobOptions struct {
	EndTime        *string `json:",omitempty"`
	AssignmentType string
	StartTime      *string `json:",omitempty"`
	GrantMin       int64   `json:",omitempty"`
}

// jobTime is written as "\/Date(ms)\/", and jobZoned with the zone.
type (
	jobTime  latchkey.Instant
	jobZoned latchkey.Instant
)

// MarshalJSON implements json.Marshaler.
func (t jobTime) MarshalJSON() ([]byte, error) { return dateText(latchkey.Instant(t), ""), nil }

// MarshalJSON implements json.Marshaler.
func (t jobZoned) MarshalJSON() ([]byte, error) { return dateText(latchkey.Instant(t), "+0000"), nil }

func dateText(at latchkey.Instant, zone string) []byte {
	return []byte(`"\/Date(` + strconv.FormatInt(at.Time().UnixMilli(), 10) + zone + `)\/"`)
}

// jobColumns tells of the members of a row, in their order.
var jobColumns = func() (list []jobColumn) {
	const text, number, yes, date = 12, 4, 16, 93
	add := func(kind int, names ...string) {
		for _, name := range names {
			list = append(list, jobColumn{Name: name, Title: name, Type: kind, Width: 4})
		}
	}
	add(text, "TargetPrincipalType", "_entitycontext", "MobileNotificationData", "_metadata", "ACL", "InitiatorID", "_PartitionKey")
	add(date, "_Timestamp")
	add(number, "StepNum")
	add(text, "_encryptkeyid", "ID")
	add(date, "StateUpdatedDate")
	add(text, "Description", "TargetPrincipalName", "BlessAs", "DefaultOptions", "Context", "StepArgs", "Initiator", "LastHistoryEntry", "TargetPrincipalID")
	add(date, "CreatedDate")
	add(text, "TraceFile", "_TableName", "History")
	add(yes, "CanReadLogs")
	add(number, "TotalStepNum", "OptionsSelector")
	add(text, "State", "JS")
	return list
}()

// jobState is what has become of a job.
func jobState(q *access.Request, now latchkey.Instant) string {
	switch q.StatusAt(now) {
	case access.Pending:
		return "Ask"
	case access.Approved:
		return "Complete"
	case access.Denied:
		return "Rejected"
	case access.Revoked:
		return "Cancelled"
	case access.Expired:
		return "Expired"
	case access.Failed:
		return "Failed"
	}
	return "Failed" // a status that nobody knows is none that lets anybody in
}

// jobView is a request with what a job tells of it.
type jobView struct {
	q        *access.Request
	account  account
	now      latchkey.Instant
	updated  latchkey.Instant
	acted    access.Party // who did what was done last
	target   access.Party // whom it waits for
	history  []jobHistory
	customer string
}

type jobHistory struct {
	Message string `json:"message"`
	From    string `json:"from"`
	Date    string `json:"date"`
}

func (s *Server) jobView(ctx context.Context, r *request, q *access.Request, accounts accountCache) (*jobView, error) {
	ref := q.Resources[0]
	a, ok := accounts[ref.ID]
	if !ok {
		record, found, err := s.cfg.Record.Resource(ctx, r.caller.Customer.ID, ref)
		if err != nil {
			return nil, err
		}
		if !found { // deleted since
			record = authz.ResourceRecord{EntityRef: ref}
		}
		a = accountOf(record)
		accounts[ref.ID] = a
	}
	v := &jobView{q: q, account: a, now: r.now, updated: q.CreatedAt, acted: q.Requester, customer: r.caller.Customer.ID}
	v.note("Request submitted", q.Requester, q.CreatedAt)
	for _, vote := range q.Approvals {
		v.note("Request approved", vote.By, vote.At)
	}
	if q.EscalatedAt != latchkey.Never {
		v.note("Request escalated", access.Party{ID: access.System, Name: access.System}, q.EscalatedAt)
	}
	who := func(id string) access.Party {
		told := slices.IndexFunc(q.Notified, func(p access.Party) bool { return p.ID == id })
		switch {
		case told >= 0:
			return q.Notified[told]
		case id == q.Requester.ID:
			return q.Requester
		case r.caller.IsPerson() && id == r.caller.Person.ID:
			return access.PartyOf(r.caller.Person)
		default:
			return access.Party{ID: id}
		}
	}
	switch q.StatusAt(r.now) {
	case access.Denied:
		v.note("Request rejected", who(q.DecidedBy), q.DecidedAt)
	case access.Revoked:
		v.note("Request cancelled", who(q.RevokedBy), q.ClosedAt)
	case access.Failed:
		v.note(q.Failure, access.Party{ID: access.System, Name: access.System}, q.ClosedAt)
	case access.Expired:
		v.note("Request expired", access.Party{ID: access.System, Name: access.System}, q.ClosedSince(r.now))
	case access.Pending, access.Approved:
	}
	v.target = v.acted
	if q.StatusAt(r.now) == access.Pending && len(q.Notified) > 0 {
		v.target = q.Notified[0]
	}
	return v, nil
}

func (v *jobView) note(message string, by access.Party, at latchkey.Instant) {
	if at == latchkey.Never {
		at = v.updated
	}
	v.history = append(v.history, jobHistory{message, jobUser(by), at.Time().Format("Mon, 02 Jan 2006 15:04:05 UTC")})
	v.updated, v.acted = max(v.updated, at), by
}

// jobUser is what somebody is called by: the e-mail address, where there is one.
func jobUser(p access.Party) string {
	switch {
	case p.Email != "":
		return p.Email
	case p.Name != "":
		return p.Name
	}
	return p.ID
}

func (v *jobView) steps() (at, total int) {
	total = v.q.Snapshot.Template.ApprovalsRequired + 1
	if v.q.StatusAt(v.now) == access.Pending {
		return min(1+len(v.q.Approvals), total), total
	}
	return total, total
}

func (v *jobView) description() string {
	return "Login request for account " + v.account.Name + " on " + v.account.Authority
}

func (v *jobView) options() jobOptions {
	o := jobOptions{AssignmentType: string(v.q.Assignment), GrantMin: int64(v.q.Duration)}
	if w := v.q.Window; w != nil {
		start, end := w.Start.Time().Format(http.TimeFormat), w.End.Time().Format(http.TimeFormat)
		o.StartTime, o.EndTime = &start, &end
	}
	return o
}

func (v *jobView) context() jobContext {
	return jobContext{
		RequestorUserName: jobUser(v.q.Requester), RequestorMail: v.q.Requester.Email, RequestorDisplayName: v.q.Requester.Name, RequestorUUID: v.q.Requester.ID,
		EventPrincipalUUID: v.acted.ID, EventPrincipalUserName: jobUser(v.acted), EventPrincipalMail: v.acted.Email,
		AccessType: loginAccess, PVID: v.account.ID, AccountName: v.account.Name, Authority: v.account.Authority, HostID: v.account.host,
		RequestedOptions: v.options(), Bookmarks: "AccountDetails:VaultAccount:" + v.account.ID, DefaultGrantMinutes: v.grantMinutes(),
	}
}

func (v *jobView) grantMinutes() int64 {
	if m := v.q.Snapshot.Template.DefaultDuration; m > 0 {
		return int64(m)
	}
	return grantMinutes
}

func (v *jobView) defaultOptions() string {
	return string(jobJSON(struct{ GrantMin int64 }{v.grantMinutes()}))
}

// bounds are those of the right, or of what is asked for.
func (v *jobView) bounds() (start, end latchkey.Instant) {
	switch w := v.q.Window; {
	case v.q.Grant != "":
		return v.q.NotBefore, v.q.ExpiresAt
	case w != nil:
		return w.Start, w.End
	}
	return latchkey.Never, latchkey.Never
}

func (v *jobView) stepArgs() string {
	_, end := v.bounds()
	if end == latchkey.Never {
		end = v.q.PendingUntil
	}
	args := struct {
		Expires *string `json:"expires"`
	}{}
	if end != latchkey.Never {
		text := end.Time().Format("2006-01-02T15:04:05-07:00")
		args.Expires = &text
	}
	return string(jobJSON(args))
}

const noMobile = `{"NotificationIds":{}}`

func (v *jobView) record() jobRecord {
	at, total := v.steps()
	last := v.history[len(v.history)-1]
	return jobRecord{
		TargetPrincipalType: "User", EntityContext: "*", MobileNotificationData: noMobile, Metadata: jobMetadata{1, 1}, ACL: "true",
		InitiatorID: v.q.Requester.ID, PartitionKey: v.customer, Timestamp: jobTime(v.updated), StepNum: at, EncryptKeyID: v.customer, ID: v.q.ID,
		StateUpdatedDate: jobTime(v.updated), Description: v.description(), TargetPrincipalName: jobUser(v.target), BlessAs: access.System,
		DefaultOptions: v.defaultOptions(), Context: v.context(), StepArgs: v.stepArgs(), Initiator: jobUser(v.q.Requester),
		LastHistoryEntry: "(" + last.From + ")" + last.Message, TargetPrincipalID: v.target.ID, CreatedDate: jobTime(v.q.CreatedAt),
		TableName: "workjob", History: string(jobJSON(v.history)), TotalStepNum: total, OptionsSelector: 1, State: jobState(v.q, v.now), JS: loginScript,
	}
}

func (v *jobView) result() jobResult {
	at, total := v.steps()
	type approver struct{ Type, Guid, Name string }
	approvers := []approver{}
	for _, p := range v.q.Notified {
		approvers = append(approvers, approver{"User", p.ID, jobUser(p)})
	}
	res := jobResult{
		TotalStepNum: total, WorkflowSettings: string(jobJSON(struct{ WorkflowApprover []approver }{approvers})), Context: v.context(),
		InitiatorID: v.q.Requester.ID, DefaultOptions: v.defaultOptions(), MobileNotificationData: noMobile, JS: loginScript, TableName: "workjob",
		EntityContext: `W/"datetime'` + url.QueryEscape(v.updated.Time().Format("2006-01-02T15:04:05.0000000Z")) + `'"`,
		State:         jobState(v.q, v.now), TargetPrincipalID: v.target.ID, RowKey: v.q.ID, SelectedOptions: string(jobJSON(v.options())),
		EncryptKeyID: v.customer, PartitionKey: v.customer, TargetPrincipalType: "User", StepArgs: v.stepArgs(), Metadata: jobMetadata{1, 1},
		History: string(jobJSON(v.history)), Description: v.description(),
		DescriptionJSON: string(jobJSON(struct {
			Format string   `json:"format"`
			Args   []string `json:"args"`
		}{"_I18N_WorkflowRequestServerLoginAccountAccess", []string{v.account.Name, v.account.Authority}})),
		OptionsSelector: 1, BlessAs: access.System, StateUpdatedDate: jobTime(v.updated), StepNum: at, Timestamp: jobTime(v.updated),
		Initiator: jobUser(v.q.Requester), ACL: "true", CreatedDate: jobTime(v.q.CreatedAt), TargetPrincipalName: jobUser(v.target),
	}
	if v.q.Failure != "" {
		res.ErrorMessage = &v.q.Failure
	}
	zoned := func(at latchkey.Instant) *jobZoned {
		if at == latchkey.Never {
			return nil
		}
		return (*jobZoned)(&at)
	}
	start, end := v.bounds()
	res.StartTime, res.EndTime = zoned(start), zoned(end)
	return res
}
