/** Where latchkey is and who asks. What is absent comes from the environment. */
export interface Options {
  /** Seconds to wait for a decision; default 10, and 0 for not at all. */
  wait?: number
  /** Gives the call up; the request stays. */
  signal?: AbortSignal
  /** http://… or https://…; LATCHKEY_URL, default http://127.0.0.1:5539. */
  url?: string
  /** An access key with the scope approvals, or a person's own token; LATCHKEY_KEY, or INDENT_API_TOKEN. */
  key?: string
  /** The customer that is acted in; LATCHKEY_CUSTOMER, or INDENT_SPACE. Any but the key's own is refused. */
  customer?: string
  /** Seconds that a call may take, beside the wait; default 5. */
  timeout?: number
  /** Permits plain HTTP over the network; LATCHKEY_ALLOW_INSECURE=true. */
  allowInsecure?: boolean
}

/** For whom access is asked: one person, by id or by e-mail address. */
export interface Petitioner {
  kind: 'user'
  id?: string
  email?: string
}

export interface Ask {
  /** Exactly one. */
  petitioners: Petitioner[]
  /** Access is to all of them, or none. */
  resources: { kind: string; id: string }[]
  /** Told to who decides. */
  reason?: string
  /** Minutes; the template's default without. */
  duration?: number
}

/** Access that is given until it expires, or is revoked. */
export interface Grant {
  id: string
  subject: { type: string; id: string }
  /** What it gives: resource type → entries. */
  entries: Record<string, { f: string; p?: number; a?: string[] }[]>
  reason: string
  not_before: string
  /** null where it has no end. */
  expires_at: string | null
}

/** That access was asked for and is not granted. */
export class ApprovalError extends Error {
  readonly kind: 'waiting' | 'denied'
  /** The access request, "" where none was made. */
  readonly requestId: string
  /** Why it was denied, for programs. */
  readonly code: string
}

/** A refusal of latchkey, or that no answer could be had. It never holds the key. */
export class LatchkeyError extends Error {
  readonly status: number
  readonly code: string
  readonly requestId: string
  readonly errors: { pointer: string; code: string; detail: string }[]
}

/**
 * Asks for access and waits for it. Resolves with the grant; rejects with an error
 * of kind "waiting" or "denied", or of another where nobody can tell.
 */
export function approval(ask: Ask, options?: Options): Promise<Grant>

/** What an error of approval means; "unknown" for everything else. It never throws. */
export function getErrorKind(err: unknown): 'waiting' | 'denied' | 'unknown'
