// Package identity tells which person a bearer token of an OpenID Connect issuer
// stands for: the issuers that the operator lists, and no others.
//
// A token counts where its signature is by a key that the issuer publishes, and
// its issuer, audience and times are right. Who its bearer is is what the issuer
// and the subject say together; the first time, a person is found by an e-mail
// address that the issuer has verified, and linked for good. No person is made
// here, and none is found by anything else.
//
// It stands on floor 1: it speaks HTTPS to issuers, and leaves it to people whom an
// identity is linked to. It reads no clock.
package identity
