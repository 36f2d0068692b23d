package main

import (
	"cmp"
	"context"
	"time"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/cache"
	"github.com/latchkey-dev/latchkey/feed"
)

const (
	// feedBytes bounds the changes that are kept for sidecars, in bytes.
	feedBytes = 64 << 20
	// nodesKept is how long the record keeps what a node said that is gone.
	nodesKept = 24 * time.Hour
	// What nodes say is written together: soon where other servers may wait for
	// it, and else for a restart alone.
	shareSoon, shareLater = 50 * time.Millisecond, 5 * time.Second
)

// openFeed makes what sidecars follow, and who remembers them.
func (n *node) openFeed(cmd *ServeCmd, id string, epoch int64) error {
	signer, err := feed.NewSigner(n.keyring.Feed)
	if err != nil {
		return err
	}
	var kept authz.NodeStore = n.db
	if err := n.openRedis(&cmd.RedisFlags, id, signer); err != nil {
		return err
	}
	if n.redis != nil {
		kept = nodeStore{cache.NewRedisNodes(n.redis, n.customers), n.db}
	}
	n.feed = authz.NewFeed(authz.FeedConfig{
		Record: n.db, Maker: &authz.RecordMaker{Record: n.db, Epoch: epoch}, Signer: signer, Issuer: id, MaxBytes: feedBytes,
		Now: func() latchkey.Instant { return latchkey.InstantOf(n.now()) },
	})
	n.follow.Observe(func(chain string, t authz.Touched) { n.feed.Applied(chain, []authz.Touched{t}) })
	n.nodes = authz.NewNodes(kept, n.db.Shared(), cmp.Or(cmd.MaxStaleness, 30*time.Second))
	return nil
}

// customers lists those that have not ended.
func (n *node) customers() (ids []string) {
	n.table.EachCustomer(func(c *authz.Customer) { ids = append(ids, c.ID) })
	return ids
}

// shareNodes writes what sidecars say of themselves, until ctx ends and once
// more then.
func (n *node) shareNodes(ctx context.Context) {
	together := shareLater
	if n.nodes.Shared() {
		together = shareSoon
	}
	seen, sweep := time.NewTicker(shareLater), time.NewTicker(time.Hour)
	defer seen.Stop()
	defer sweep.Stop()
	for {
		select {
		case <-ctx.Done():
			n.shareOnce()
			return
		case <-n.nodes.Urgent():
			n.shareOnce()
			select { // what is said meanwhile is written at the end of it
			case <-ctx.Done():
			case <-time.After(together):
			}
		case <-seen.C:
			n.shareOnce()
		case <-sweep.C:
			if _, err := n.db.SweepNodes(ctx, latchkey.InstantOf(n.now()).Add(-nodesKept)); err != nil {
				n.log.Warn("background", "job", "sweep nodes", "error", err.Error())
			}
		}
	}
}

func (n *node) shareOnce() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if _, err := n.nodes.RunOnce(ctx, latchkey.InstantOf(n.now())); err != nil {
		n.log.Warn("background", "job", "nodes", "error", err.Error())
	}
}
