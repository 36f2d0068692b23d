// Package proxies holds the configuration files of docs/integrations to the
// truth: its tests start real proxies with exactly these files, between a
// client that attacks and a small upstream that tells what reached it, with
// latchkey beside them. It is of the workshop and has nothing but tests.
package proxies
