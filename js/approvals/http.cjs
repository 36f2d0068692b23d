'use strict'

// How both packages talk to latchkey. js/api/http.cjs and js/approvals/http.cjs
// are the same file: neither package depends on another.

const maxReply = 64 * 1024 * 1024
const attempts = 3
const loopback = /^(localhost|127(\.\d{1,3}){3}|\[::1\])$/

/**
 * A refusal of latchkey, or that no answer could be had. It never holds the key.
 */
class LatchkeyError extends Error {
  /**
   * @param {string} message
   * @param {{status?: number, code?: string, requestId?: string, errors?: object[], retryAfter?: number}} [about]
   */
  constructor(message, about = {}) {
    super(message)
    this.name = 'LatchkeyError'
    /** HTTP status of the refusal; 0 where no answer came. */
    this.status = about.status ?? 0
    /** For programs: "scope_missing"; "" where somebody else than latchkey answered. */
    this.code = about.code ?? ''
    /** Finds the request in latchkey's log. */
    this.requestId = about.requestId ?? ''
    /** What is wrong with the request: {pointer, code, detail}. */
    this.errors = about.errors ?? []
    Object.defineProperty(this, 'retryAfter', { value: about.retryAfter ?? 0, enumerable: false })
  }
}

/** first returns the first text that is not empty. */
function first(...texts) {
  return texts.find(text => typeof text === 'string' && text !== '')
}

/**
 * connect reads where latchkey is and who asks: from options, else from the
 * environment. What it returns does not show the key when it is printed.
 */
function connect(options = {}, env = process.env) {
  const key = first(options.key, env.LATCHKEY_KEY, env.INDENT_API_TOKEN)
  if (key === undefined) throw new LatchkeyError('there is no key: set LATCHKEY_KEY, or INDENT_API_TOKEN')
  if (!/^[\x21-\x7e]+$/.test(key)) throw new LatchkeyError('the key is malformed')
  const customer = first(options.customer, env.LATCHKEY_CUSTOMER, env.INDENT_SPACE)
  if (customer !== undefined && !/^[\x21-\x7e]+$/.test(customer)) throw new LatchkeyError('the customer is malformed')
  let base
  try {
    base = new URL(first(options.url, env.LATCHKEY_URL) ?? 'http://127.0.0.1:5539')
  } catch {
    base = undefined // the text may hold a secret
  }
  if (base === undefined || !/^https?:$/.test(base.protocol) || base.username !== '' || base.password !== '' || base.search !== '' || base.hash !== '') {
    throw new LatchkeyError('want a URL like http://HOST or https://HOST in LATCHKEY_URL, without a user or a query')
  }
  const insecure = options.allowInsecure ?? env.LATCHKEY_ALLOW_INSECURE === 'true'
  if (base.protocol === 'http:' && !loopback.test(base.hostname) && !insecure) {
    throw new LatchkeyError('the key would go in plain text over the network: use https, or set LATCHKEY_ALLOW_INSECURE=true')
  }
  const timeout = options.timeout ?? 5
  if (typeof timeout !== 'number' || !(timeout > 0 && timeout <= 3600)) throw new LatchkeyError('the timeout must be seconds, at most 3600')
  const prefix = base.origin + base.pathname.replace(/\/+$/, '')
  const headers = {
    authorization: `Bearer ${key}`,
    'content-type': 'application/json',
    accept: 'application/json, application/problem+json',
    'user-agent': 'latchkey-js'
  }
  if (customer !== undefined) headers['x-customer-id'] = customer
  const scrub = text => text.split(key).join('[redacted]')
  // A closure, so that inspecting a client finds no key.
  return (path, body, { wait = 0, signal } = {}) => post(prefix + path, headers, scrub, path, body, (timeout + wait) * 1000, signal)
}

/** post sends body as JSON, and returns the reply of a 200. */
async function post(url, headers, scrub, path, body, ms, signal) {
  const over = AbortSignal.timeout(ms)
  const sent = JSON.stringify(body)
  for (let attempt = 1; ; attempt++) {
    try {
      return await once(url, headers, scrub, path, sent, over, signal)
    } catch (err) {
      // Only where latchkey has surely done nothing: it was not reached, or says so.
      const undone = err instanceof LatchkeyError && (err.refused || ((err.status === 429 || err.status === 503) && err.code !== ''))
      if (!undone || attempt === attempts || over.aborted || signal?.aborted) throw err
      await pause(err.retryAfter > 0 ? Math.min(err.retryAfter, 2) * 1000 : 50 * 2 ** attempt, over, signal)
      if (over.aborted || signal?.aborted) throw err
    }
  }
}

async function once(url, headers, scrub, path, body, over, signal) {
  const stop = new AbortController()
  const abort = () => stop.abort()
  for (const s of [over, signal]) {
    if (s?.aborted) abort()
    s?.addEventListener('abort', abort, { once: true })
  }
  try {
    const resp = await fetch(url, { method: 'POST', headers, body, redirect: 'manual', signal: stop.signal })
    const text = scrub(await read(resp))
    if (resp.status !== 200) throw problem(resp, text)
    try {
      return JSON.parse(text)
    } catch {
      throw new LatchkeyError(`${path}: the reply is not what latchkey answers`, { status: resp.status })
    }
  } catch (err) {
    if (err instanceof LatchkeyError) throw err
    if (signal?.aborted) throw new LatchkeyError(`${path}: the call was given up`)
    if (over.aborted) throw new LatchkeyError(`${path}: no answer in time`)
    const code = typeof err?.cause?.code === 'string' && /^[A-Z0-9_]{1,40}$/.test(err.cause.code) ? err.cause.code : ''
    const e = new LatchkeyError(`${path}: no answer${code && ` (${code})`}`)
    Object.defineProperty(e, 'refused', { value: code === 'ECONNREFUSED', enumerable: false })
    throw e
  } finally {
    for (const s of [over, signal]) s?.removeEventListener('abort', abort)
  }
}

async function read(resp) {
  if (resp.body === null) return ''
  const parts = []
  let size = 0
  for await (const part of resp.body) {
    size += part.length
    if (size > maxReply) throw new LatchkeyError(`the reply is over ${maxReply} bytes`)
    parts.push(part)
  }
  return Buffer.concat(parts).toString('utf8')
}

/** problem makes an error of a reply that is no success: a problem document (RFC 9457) where it is one. */
function problem(resp, text) {
  const seconds = Number(resp.headers.get('retry-after') ?? 0)
  const about = { status: resp.status, retryAfter: seconds > 0 && seconds <= 3600 ? seconds : 0 }
  if ((resp.headers.get('content-type') ?? '').startsWith('application/problem+json')) {
    try {
      const doc = JSON.parse(text)
      if (typeof doc.code === 'string') {
        about.code = doc.code
        about.requestId = typeof doc.request_id === 'string' ? doc.request_id : ''
        about.errors = Array.isArray(doc.errors) ? doc.errors : []
        return new LatchkeyError(`${resp.status} ${doc.code}: ${doc.detail}`, about)
      }
    } catch {
      // not one after all
    }
  }
  return new LatchkeyError(`${resp.status} ${resp.statusText}`.trim(), about)
}

function pause(ms, ...signals) {
  return new Promise(resolve => {
    const done = () => {
      clearTimeout(timer)
      for (const s of signals) s?.removeEventListener('abort', done)
      resolve()
    }
    const timer = setTimeout(done, ms * (1 + Math.random() / 2))
    for (const s of signals) s?.addEventListener('abort', done, { once: true })
  })
}

module.exports = { LatchkeyError, connect }
