// What a bundler does for the portal: './db' is found without its extension, and
// what access.js defines can be called from outside. node --import ./bundler.mjs
import { register } from 'node:module'

const hooks = `
export async function resolve(specifier, context, next) {
  return next(/^\\.\\/\\w+$/.test(specifier) ? specifier + '.js' : specifier, context)
}
export async function load(url, context, next) {
  const loaded = await next(url, context)
  if (!url.endsWith('/access.js')) return loaded
  return { ...loaded, source: loaded.source + '\\nexport { requestCustomerAccess }\\n' }
}`

register(`data:text/javascript,${encodeURIComponent(hooks)}`)
