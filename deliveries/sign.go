package deliveries

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"strconv"
	"strings"
	"time"
)

// Sign is the value of webhook-signature by Standard Webhooks: one signature for
// each key that is good, so that a receiver which holds either verifies while a
// secret is rotated. at is when it is sent, cut to seconds as webhook-timestamp.
func Sign(keys [][]byte, id string, at time.Time, body []byte) string {
	var list []string
	for _, key := range keys {
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(id + "." + strconv.FormatInt(at.Unix(), 10) + "."))
		mac.Write(body)
		list = append(list, "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	}
	return strings.Join(list, " ")
}

// IndentTime is the value of X-Indent-Timestamp, in milliseconds.
func IndentTime(at time.Time) string { return at.UTC().Format("2006-01-02T15:04:05.000Z") }

// SignIndent is the value of X-Indent-Signature: of the version, the timestamp and
// the bytes that are sent.
func SignIndent(secret []byte, timestamp string, body []byte) string {
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte("v0:" + timestamp + ":"))
	mac.Write(body)
	return hex.EncodeToString(mac.Sum(nil))
}
