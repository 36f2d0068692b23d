package cache

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// RedisConfig says where Redis is.
type RedisConfig struct {
	// URL is of one server, of a Cluster, or of Sentinels that know the server:
	//
	//	redis://USER:PASSWORD@HOST:PORT/DB
	//	unix://USER:PASSWORD@/PATH?db=DB
	//	redis+cluster://USER:PASSWORD@HOST:PORT,HOST:PORT
	//	redis+sentinel://USER:PASSWORD@HOST:PORT,HOST:PORT/DB?master=NAME
	//
	// With rediss in the place of redis the connections are TLS. Sentinels that
	// ask for credentials of their own get those of the parameters sentinel_user
	// and sentinel_password.
	URL string
	// CA is a file with certificates (PEM) of the authorities that a server's
	// certificate must be of, in place of the system's. Cert and Key are files
	// with the certificate that this side shows. For TLS only.
	CA, Cert, Key string
}

// errRedisURL never tells of the URL itself, which holds a password.
var errRedisURL = errors.New("want redis://[USER:PASSWORD@]HOST:PORT[/DB], rediss://…, unix://[USER:PASSWORD@]/PATH[?db=DB], " +
	"redis+cluster://[…@]HOST:PORT,… or redis+sentinel://[…@]HOST:PORT,…[/DB]?master=NAME")

// Check reports what is wrong with the configuration, without connecting.
func (c RedisConfig) Check() error {
	_, err := c.options()
	return err
}

// Redacted is the URL without what is secret in it.
func (c RedisConfig) Redacted() string {
	o, err := c.options()
	if err != nil {
		return ""
	}
	scheme, _, _ := strings.Cut(c.URL, "://")
	return scheme + "://" + strings.Join(o.Addrs, ",")
}

func (c RedisConfig) options() (*redis.UniversalOptions, error) {
	scheme, rest, ok := strings.Cut(c.URL, "://")
	if !ok {
		return nil, errRedisURL
	}
	// The hosts are taken out by hand: a URL has one.
	end := strings.IndexAny(rest, "/?#")
	if end < 0 {
		end = len(rest)
	}
	authority := rest[:end]
	credentials := authority[:strings.LastIndexByte(authority, '@')+1]
	hosts := strings.Split(authority[len(credentials):], ",")
	u, err := url.Parse("redis://" + credentials + "host" + rest[end:])
	if err != nil || u.Fragment != "" {
		return nil, errRedisURL
	}
	o := &redis.UniversalOptions{
		Addrs: hosts, Username: u.User.Username(), Protocol: 3, DisableIdentity: true,
		ContextTimeoutEnabled: true, DialTimeout: 2 * time.Second, ReadTimeout: 2 * time.Second, WriteTimeout: 2 * time.Second,
		DialerRetries: 1, MaxRetries: 1, PipelinePoolSize: -1,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}
	o.Password, _ = u.User.Password()
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, errRedisURL
	}
	take := func(name string) string {
		v := query.Get(name)
		query.Del(name)
		return v
	}
	db := strings.TrimPrefix(u.Path, "/")
	secure := strings.HasPrefix(scheme, "rediss")
	switch scheme {
	case "redis", "rediss":
		if len(hosts) != 1 {
			return nil, errRedisURL
		}
	case "unix":
		if len(hosts) != 1 || hosts[0] != "" || !filepath.IsAbs(u.Path) {
			return nil, errRedisURL
		}
		o.Addrs, db = []string{u.Path}, take("db")
	case "redis+cluster", "rediss+cluster":
		if o.IsClusterMode = true; db != "" && db != "0" {
			return nil, errors.New("a Redis Cluster has no databases to choose from")
		}
	case "redis+sentinel", "rediss+sentinel":
		if o.MasterName = take("master"); o.MasterName == "" {
			return nil, errors.New("an address of Sentinels needs ?master=NAME")
		}
		o.SentinelUsername, o.SentinelPassword = take("sentinel_user"), take("sentinel_password")
	default:
		return nil, errRedisURL
	}
	if len(query) > 0 { // which is not named: with a '?' in it that was not escaped, it is a password
		return nil, errors.New("the address of Redis has a parameter that is not known: there are db of unix://, and master, sentinel_user and sentinel_password of Sentinels")
	}
	if db != "" {
		if o.DB, err = strconv.Atoi(db); err != nil || o.DB < 0 {
			return nil, errors.New("the number of the Redis database is not a number")
		}
	}
	if scheme != "unix" {
		for _, host := range hosts {
			if name, port, err := net.SplitHostPort(host); err != nil || name == "" || port == "" {
				return nil, errRedisURL
			}
		}
	}
	if !secure {
		if c.CA != "" || c.Cert != "" || c.Key != "" {
			return nil, errors.New("certificates are for rediss:// alone")
		}
		return o, nil
	}
	o.TLSConfig, err = c.tls()
	return o, err
}

func (c RedisConfig) tls() (*tls.Config, error) {
	t := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.CA != "" {
		text, err := os.ReadFile(c.CA)
		if err != nil {
			return nil, fmt.Errorf("read the authorities for Redis: %w", err)
		}
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("there is no certificate in %s", c.CA)
		}
	}
	if (c.Cert == "") != (c.Key == "") {
		return nil, errors.New("a certificate for Redis and its key go together")
	}
	if c.Cert != "" {
		pair, err := tls.LoadX509KeyPair(c.Cert, c.Key)
		if err != nil {
			return nil, fmt.Errorf("read the certificate for Redis: %w", err)
		}
		t.Certificates = []tls.Certificate{pair}
	}
	return t, nil
}
