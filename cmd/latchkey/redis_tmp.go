package main

import "github.com/latchkey-dev/latchkey/cache"

// RedisFlags say where Redis is.
type RedisFlags struct {
	Redis     string `help:"Redis that carries changes to sidecars: redis://USER:PASSWORD@HOST:PORT/DB, rediss:// for TLS, unix://…/PATH, redis+cluster://…HOST:PORT,… or redis+sentinel://…HOST:PORT,…/DB?master=NAME. A password belongs in the environment or in a file, not on the command line." env:"LATCHKEY_REDIS" placeholder:"URL"`
	RedisCA   string `help:"Redis must show a certificate of one of these authorities (PEM), in place of the system's." type:"path" env:"LATCHKEY_REDIS_CA" placeholder:"FILE"`
	RedisCert string `help:"Certificate (PEM) to show to Redis." type:"path" env:"LATCHKEY_REDIS_CERT" placeholder:"FILE"`
	RedisKey  string `help:"Private key (PEM) of that certificate." type:"path" env:"LATCHKEY_REDIS_KEY" placeholder:"FILE"`
}

func (f *RedisFlags) redisConfig() cache.RedisConfig {
	return cache.RedisConfig{URL: f.Redis, CA: f.RedisCA, Cert: f.RedisCert, Key: f.RedisKey}
}

func (f *RedisFlags) validateRedis() error {
	switch {
	case f.Redis == "" && (f.RedisCA != "" || f.RedisCert != "" || f.RedisKey != ""):
		return usage("--redis-ca, --redis-cert and --redis-key go with --redis")
	case f.Redis == "":
		return nil
	}
	if err := f.redisConfig().Check(); err != nil {
		return usage("--redis: %w", err)
	}
	return nil
}

// connectRedis makes the client, nil where there is no Redis.
func (f *RedisFlags) connectRedis() (*cache.Redis, error) {
	if f.Redis == "" {
		return nil, nil
	}
	r, err := cache.OpenRedis(f.redisConfig())
	if err != nil {
		return nil, usage("--redis: %w", err)
	}
	return r, nil
}
