// Package bundle reads, writes, signs, builds and pulls OPA bundles: a
// customer's policies and sets on their way between control planes, sidecars
// and stock OPAs.
//
//	b, err := bundle.Read(raw, bundle.Options{Keys: keys, Customer: "acme"})
//	built, err := builder.Build(input, bundle.ProfileOPA, signer)
//	puller, err := bundle.NewPuller(cfg); go puller.Run(ctx)
//
// A bundle is bytes from outside until [Read] has checked all of it: sizes,
// names, signature, roots, customer. What comes out is plain values; nobody
// here compiles or decides. A bad bundle never replaces a good one.
//
// Two profiles are built. The OPA profile is for stock OPA, which answers
// data.latchkey.decision from it as latchkey answers /decision; the latchkey
// profile carries the sources as stored, for sidecars.
//
// The package stands on floor 1 and does I/O. It may import the root package,
// policies, audit and scopes; of OPA it uses the bundle format's own types,
// and the compiler to see what a stock OPA would refuse.
package bundle
