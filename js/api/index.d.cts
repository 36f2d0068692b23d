/** Where latchkey is and who asks. What is absent comes from the environment. */
export interface Options {
  /** http://… or https://…; LATCHKEY_URL, default http://127.0.0.1:5539. */
  url?: string
  /** An access key, or a personal token; LATCHKEY_KEY, or INDENT_API_TOKEN. */
  key?: string
  /** The customer that is acted in; LATCHKEY_CUSTOMER, or INDENT_SPACE. Any but the key's own is refused. */
  customer?: string
  /** Seconds that a call with its repetitions may take; default 5. */
  timeout?: number
  /** Permits plain HTTP over the network; LATCHKEY_ALLOW_INSECURE=true. */
  allowInsecure?: boolean
}

/** A refusal of latchkey, or that no answer could be had. It never holds the key. */
export class LatchkeyError extends Error {
  /** HTTP status of the refusal; 0 where no answer came. */
  readonly status: number
  /** For programs: "scope_missing"; "" where somebody else than latchkey answered. */
  readonly code: string
  /** Finds the request in latchkey's log. */
  readonly requestId: string
  /** What is wrong with the request. */
  readonly errors: { pointer: string; code: string; detail: string }[]
}

/** One resource, found by kind and id. What is absent stays as it is stored. */
export interface ResourceUpdate {
  kind: string
  id: string
  displayName?: string
  /** Replace what is stored whole. */
  labels?: Record<string, string>
  /** What policies see; replace what is stored whole. */
  properties?: Record<string, unknown>
}

export interface Resource {
  kind: string
  id: string
  displayName: string
  labels: Record<string, string>
  properties: Record<string, unknown>
}

/** Why an update was not taken. */
export interface ItemError {
  error: { status: number; code: string; message: string }
}

export class LatchkeyAPI {
  constructor(options?: Options)
  readonly resource: {
    /**
     * Makes and changes resources; needs the scope resources_manage. The same again
     * does no harm. The answer has what is stored of each, in their order, and an
     * error in the place of one that was wrong.
     */
    bulkUpdate(update: { resources: ResourceUpdate[] }): Promise<{ resources: (Resource | ItemError)[] }>
  }
}

export { LatchkeyAPI as IndentAPI }
