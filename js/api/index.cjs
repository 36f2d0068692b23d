'use strict'

const { LatchkeyError, connect } = require('./http.cjs')

/** How many resources latchkey takes at a time. */
const maxBulk = 20000

/** What latchkey knows of the things that access is asked to. */
class ResourceAPI {
  #post

  constructor(post) {
    this.#post = post
  }

  /**
   * bulkUpdate makes and changes resources, found by kind and id; what an item
   * does not name stays. The same again does no harm. It is sent in parts of
   * 20,000; where one fails, those before it are stored.
   *
   * @param {{resources: object[]}} update
   * @returns {Promise<{resources: object[]}>} what is stored of each, in their
   *   order; {error} in the place of one that was wrong.
   */
  async bulkUpdate({ resources } = {}) {
    if (!Array.isArray(resources)) throw new TypeError('want {resources: [{kind, id, displayName?, labels?, properties?}]}')
    const stored = []
    for (let i = 0; i < resources.length; i += maxBulk) {
      const part = resources.slice(i, i + maxBulk)
      const reply = await this.#post('/v1/resources:bulkUpdate', { resources: part }, { wait: 60 })
      if (!Array.isArray(reply?.resources) || reply.resources.length !== part.length) {
        throw new LatchkeyError('/v1/resources:bulkUpdate: the reply is not what latchkey answers', { status: 200 })
      }
      for (const one of reply.resources) stored.push(one)
    }
    return { resources: stored }
  }
}

/** LatchkeyAPI manages what latchkey knows. Without options it goes by the environment. */
class LatchkeyAPI {
  /**
   * @param {{url?: string, key?: string, customer?: string, timeout?: number, allowInsecure?: boolean}} [options]
   */
  constructor(options) {
    this.resource = new ResourceAPI(connect(options))
  }
}

module.exports = { LatchkeyAPI, IndentAPI: LatchkeyAPI, LatchkeyError }
