// A click on "Request Access": node portal.mjs CUSTOMER, with who is signed in as
// JSON in PORTAL_USER.
import { requestCustomerAccess } from './access.js'

console.log(JSON.stringify(await requestCustomerAccess(JSON.parse(process.env.PORTAL_USER), process.argv[2])))
