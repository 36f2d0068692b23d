'use strict'

const { LatchkeyError, connect } = require('./http.cjs')

const maxWait = 60 // seconds, of one call
// The same in every copy of this package that a program has loaded.
const brand = Symbol.for('latchkey.approval.kind')

/** ApprovalError is that access was asked for and is not granted. */
class ApprovalError extends Error {
  /**
   * @param {'waiting' | 'denied'} kind
   * @param {{requestId?: string, code?: string, detail?: string}} [about]
   */
  constructor(kind, about = {}) {
    const why = about.detail || about.code
    super(kind === 'waiting' ? 'the access request waits for a decision' : `access is denied${why ? `: ${why}` : ''}`)
    this.name = 'ApprovalError'
    /** "waiting" or "denied". */
    this.kind = kind
    /** The access request, "" where none was made. */
    this.requestId = about.requestId ?? ''
    /** Why it was denied, for programs. */
    this.code = about.code ?? ''
    Object.defineProperty(this, brand, { value: kind, enumerable: false })
  }
}

/**
 * approval asks for access and waits for it. It returns the grant where there is
 * one, or one that is given meanwhile, and else throws an error that
 * getErrorKind tells the kind of. Asking again later joins the open request.
 *
 * @param {{petitioners: object[], resources: object[], reason?: string, duration?: number}} ask
 *   duration in minutes; without one it is the template's.
 * @param {{wait?: number, signal?: AbortSignal, url?: string, key?: string, customer?: string, timeout?: number, allowInsecure?: boolean}} [options]
 *   wait in seconds, 10 by default.
 */
async function approval(ask, options = {}) {
  const { wait = 10, signal } = options
  if (ask === null || typeof ask !== 'object') throw new TypeError('want {petitioners: [{kind, id, email}], resources: [{kind, id}]}')
  if (!Number.isSafeInteger(wait) || wait < 0) throw new TypeError('wait must be whole seconds')
  const post = connect(options)
  for (let left = wait; ; left -= maxWait) {
    const seconds = Math.min(left, maxWait)
    const reply = await post('/v1/approvals', { ...ask, wait: seconds }, { wait: seconds, signal })
    switch (reply?.status) {
      case 'granted':
        return reply.grant
      case 'denied':
        throw new ApprovalError('denied', { requestId: reply.request_id ?? '', code: reply.denial?.code, detail: reply.denial?.detail })
      case 'waiting':
        if (left <= maxWait) throw new ApprovalError('waiting', { requestId: reply.request_id ?? '' })
        break
      default:
        throw new LatchkeyError('/v1/approvals: the reply tells no outcome', { status: 200 })
    }
  }
}

/**
 * getErrorKind tells what an error of approval means: "waiting", "denied", and
 * "unknown" for everything else that can be thrown. It never throws.
 *
 * @returns {'waiting' | 'denied' | 'unknown'}
 */
function getErrorKind(err) {
  try {
    for (let depth = 0; depth < 100 && err !== null && typeof err === 'object'; depth++) {
      const kind = err[brand]
      if (kind === 'waiting' || kind === 'denied') return kind
      err = err.cause
    }
  } catch {
    // A foreign object's own doing.
  }
  return 'unknown'
}

module.exports = { approval, getErrorKind, ApprovalError, LatchkeyError }
