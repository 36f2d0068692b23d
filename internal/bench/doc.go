// Command bench measures latchkey's decisions over HTTP, side by side with a
// handler that answers a constant and with a stock OPA that is asked the same
// questions, and says whether the project's goals are met.
//
//	go run ./internal/bench                       three servers, a thousand keys
//	go run ./internal/bench -large                a million keys against a thousand
//	go run ./internal/bench -write FILE           writes the page as Markdown too
//
// Ratios are what counts: all servers run in the same minutes on the same core,
// in turns, so that whatever else the machine does hits them alike. It needs
// Linux, wrk, taskset and, for the comparison, opa in the path or in Go's bin.
//
// The package stands beside the house: nothing imports it.
package main
