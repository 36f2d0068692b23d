// Both packages against a server of this process: what they send, what they make
// of every answer, and that nothing shows the key. node --test
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer } from 'node:http'
import { createRequire } from 'node:module'
import { after, test } from 'node:test'
import { inspect } from 'node:util'

import { IndentAPI, LatchkeyAPI, LatchkeyError } from '@latchkey/api'
import { ApprovalError, approval, getErrorKind } from '@latchkey/approvals'

const key = 'lk1_test_abcdefghijkl_secretsecretsecretsecretsecretsecretsecret0_000000'
const ask = { petitioners: [{ kind: 'user', id: 'u', email: 'laura@example.com' }], resources: [{ kind: 'customer', id: 'acme' }] }

const servers = []
after(() => servers.forEach(s => { s.closeAllConnections?.(); s.close() }))

/** serve answers with what each call of answer returns: [status, body, headers], or null to hang up. */
async function serve(answer) {
  const calls = []
  const server = createServer(async (req, res) => {
    let body = ''
    for await (const part of req) body += part
    calls.push({ path: req.url, headers: req.headers, body: JSON.parse(body) })
    const reply = await answer(calls.length, calls.at(-1))
    if (reply === null) return req.socket.destroy()
    const [status, content, headers = {}] = reply
    res.writeHead(status, { 'content-type': status === 200 ? 'application/json' : 'application/problem+json', ...headers })
    res.end(typeof content === 'string' ? content : JSON.stringify(content))
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  servers.push(server)
  return { url: `http://127.0.0.1:${server.address().port}`, calls }
}

const rejected = promise => promise.then(() => assert.fail('it is not refused'), err => err)

test('the packages are the same under import and require', () => {
  const require = createRequire(import.meta.url)
  assert.equal(require('@latchkey/api').LatchkeyAPI, LatchkeyAPI)
  assert.equal(require('@latchkey/approvals').approval, approval)
  assert.equal(IndentAPI, LatchkeyAPI)
})

test('settings come from options, else from the environment, with its older names', async () => {
  const { url, calls } = await serve(() => [200, { resources: [] }])
  const names = ['LATCHKEY_URL', 'LATCHKEY_KEY', 'LATCHKEY_CUSTOMER', 'INDENT_SPACE', 'INDENT_API_TOKEN']
  const before = names.map(n => process.env[n])
  try {
    for (const n of names) delete process.env[n]
    assert.throws(() => new LatchkeyAPI(), /LATCHKEY_KEY, or INDENT_API_TOKEN/)
    Object.assign(process.env, { LATCHKEY_URL: url, INDENT_API_TOKEN: key, INDENT_SPACE: 'older', LATCHKEY_KEY: '' })
    await new IndentAPI().resource.bulkUpdate({ resources: [{ kind: 'customer', id: 'a' }] }).catch(() => {})
    assert.equal(calls[0].headers.authorization, `Bearer ${key}`)
    assert.equal(calls[0].headers['x-customer-id'], 'older')
    Object.assign(process.env, { LATCHKEY_KEY: `${key}2`, LATCHKEY_CUSTOMER: 'newer' })
    await new IndentAPI().resource.bulkUpdate({ resources: [{ kind: 'customer', id: 'a' }] }).catch(() => {})
    assert.equal(calls[1].headers.authorization, `Bearer ${key}2`)
    assert.equal(calls[1].headers['x-customer-id'], 'newer')
  } finally {
    names.forEach((n, i) => (before[i] === undefined ? delete process.env[n] : (process.env[n] = before[i])))
  }
})

test('the key goes nowhere but to the server, and is shown to nobody', async () => {
  for (const url of ['http://latchkey.internal:5539', 'http://127.0.0.1.evil.test', 'https://u:p@latchkey.internal', 'https://latchkey.internal/?k=v', 'ftp://127.0.0.1', 'nonsense']) {
    assert.throws(() => new LatchkeyAPI({ url, key }), err => err instanceof LatchkeyError && !err.message.includes('u:p') && !inspect(err).includes(key), url)
  }
  assert.throws(() => new LatchkeyAPI({ key: 'two\r\nx: y' }), /malformed/)
  new LatchkeyAPI({ url: 'http://latchkey.internal', key, allowInsecure: true })
  for (const url of ['http://localhost:1', 'http://[::1]:1', 'https://latchkey.internal/prefix/']) new LatchkeyAPI({ url, key })

  const client = new LatchkeyAPI({ url: 'http://127.0.0.1:1', key })
  assert.ok(!inspect(client, { depth: null, showHidden: true }).includes(key) && !JSON.stringify(client).includes(key))

  const echo = await serve((_, call) => [400, { code: 'echo', detail: `you sent ${call.headers.authorization}`, errors: [{ detail: call.headers.authorization }] }])
  const err = await rejected(approval(ask, { url: echo.url, key }))
  assert.ok(!inspect(err, { depth: null, showHidden: true }).includes(key), inspect(err))
  assert.match(err.message, /\[redacted\]/)

  let reached = false
  const other = await serve(() => { reached = true; return [200, {}] })
  const redirecting = await serve(() => [307, '', { location: other.url }])
  assert.equal((await rejected(approval(ask, { url: redirecting.url, key }))).status, 307)
  assert.equal(reached, false)
})

test('approval asks, and tells each outcome', async () => {
  const grant = { id: 'g', expires_at: null }
  let reply = { status: 'granted', request_id: 'r', grant, denial: null }
  const { url, calls } = await serve(() => [200, reply])
  assert.deepEqual(await approval({ ...ask, reason: 'ticket 7', duration: 30 }, { url, key }), grant)
  assert.deepEqual(calls[0].body, { ...ask, reason: 'ticket 7', duration: 30, wait: 10 })
  assert.equal(calls[0].path, '/v1/approvals')
  assert.equal(calls[0].headers['x-customer-id'], undefined)

  reply = { status: 'waiting', request_id: 'r', grant: null, denial: null }
  let err = await rejected(approval(ask, { url, key, wait: 0 }))
  assert.ok(err instanceof ApprovalError && err.requestId === 'r' && getErrorKind(err) === 'waiting')
  assert.equal(calls.at(-1).body.wait, 0)

  reply = { status: 'denied', request_id: null, grant: null, denial: { code: 'request_denied', detail: 'not today' } }
  err = await rejected(approval(ask, { url, key }))
  assert.ok(getErrorKind(err) === 'denied' && err.code === 'request_denied' && err.requestId === '' && /not today/.test(err.message))

  for (reply of [{}, null, [], 'granted', { status: 'approved' }]) assert.equal(getErrorKind(await rejected(approval(ask, { url, key }))), 'unknown')
})

test('a long wait is several calls', async () => {
  const { url, calls } = await serve(() => [200, { status: 'waiting', request_id: 'r' }])
  assert.equal(getErrorKind(await rejected(approval(ask, { url, key, wait: 130 }))), 'waiting')
  assert.deepEqual(calls.map(c => c.body.wait), [60, 60, 10])
  for (const wait of [-1, 1.5, '10', NaN]) await assert.rejects(approval(ask, { url, key, wait }), TypeError)
  await assert.rejects(approval(null, { url, key }), TypeError)
})

test('a call that may have been done is not made twice', async () => {
  const cases = [
    [() => [503, { code: 'busy' }], 3],
    [() => [429, { code: 'too_many_failures' }], 3],
    [() => [503, 'a proxy', { 'content-type': 'text/html' }], 1],
    [() => [500, { code: 'internal_error' }], 1],
    [() => null, 1]
  ]
  for (const [answer, want] of cases) {
    const { url, calls } = await serve(answer)
    assert.equal(getErrorKind(await rejected(approval(ask, { url, key }))), 'unknown')
    assert.equal(calls.length, want, String(answer))
  }
  const { url } = await serve(n => (n < 3 ? [503, { code: 'busy' }] : [200, { status: 'granted', grant: { id: 'g' } }]))
  assert.equal((await approval(ask, { url, key })).id, 'g')
  const away = await rejected(approval(ask, { url: 'http://127.0.0.1:1', key }))
  assert.ok(away instanceof Error && away.status === 0 && !away.message.includes('127.0.0.1'), away.message)
})

test('a call ends with its time, and when it is given up', async () => {
  const { url } = await serve(() => new Promise(() => {}))
  assert.match((await rejected(approval(ask, { url, key, wait: 0, timeout: 0.05 }))).message, /no answer in time/)
  const stop = new AbortController()
  const given = rejected(approval(ask, { url, key, signal: stop.signal }))
  stop.abort()
  assert.match((await given).message, /given up/)
  assert.match((await rejected(approval(ask, { url, key, signal: stop.signal }))).message, /given up/)
})

test('getErrorKind is total', () => {
  const waiting = new ApprovalError('waiting')
  const loop = new Error('loop')
  loop.cause = loop
  const hostile = new Proxy({}, { get() { throw new Error('no') } })
  for (const [err, want] of [
    [waiting, 'waiting'], [new ApprovalError('denied'), 'denied'], [new Error('outer', { cause: waiting }), 'waiting'],
    [undefined, 'unknown'], [null, 'unknown'], ['denied', 'unknown'], [0, 'unknown'], [Symbol('x'), 'unknown'], [() => {}, 'unknown'],
    [{ kind: 'denied' }, 'unknown'], [{ status: 'waiting' }, 'unknown'], [new Error('denied'), 'unknown'], [loop, 'unknown'],
    [hostile, 'unknown'], [Object.create(null), 'unknown']
  ]) assert.equal(getErrorKind(err), want)
})

test('bulkUpdate sends parts, and tells of each', async () => {
  const { url, calls } = await serve((_, call) => [200, { resources: call.body.resources.map((r, i) => (i === 0 ? { error: { status: 400, code: 'invalid_id', message: 'no' } } : { ...r, displayName: '' })) }])
  const client = new LatchkeyAPI({ url, key })
  const resources = Array.from({ length: 20001 }, (_, i) => ({ kind: 'customer', id: `c${i}` }))
  const stored = await client.resource.bulkUpdate({ resources })
  assert.deepEqual(calls.map(c => c.body.resources.length), [20000, 1])
  assert.equal(calls[0].path, '/v1/resources:bulkUpdate')
  assert.equal(stored.resources.length, 20001)
  assert.equal(stored.resources[0].error.code, 'invalid_id')
  assert.deepEqual(await client.resource.bulkUpdate({ resources: [] }), { resources: [] })
  await assert.rejects(client.resource.bulkUpdate(), TypeError)

  const short = await serve(() => [200, { resources: [] }])
  await assert.rejects(new LatchkeyAPI({ url: short.url, key }).resource.bulkUpdate({ resources: [{ kind: 'customer', id: 'a' }] }), LatchkeyError)
  const refusing = await serve(() => [403, { code: 'scope_missing', detail: 'the key lacks the scope', request_id: 'q', errors: [] }])
  const err = await rejected(new LatchkeyAPI({ url: refusing.url, key }).resource.bulkUpdate({ resources }))
  assert.ok(err.status === 403 && err.code === 'scope_missing' && err.requestId === 'q')
})
