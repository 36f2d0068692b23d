// Answers webhooks as a receiver that parses the body, hands the value to
// verify(), which serialises it again, and refuses what does not verify.
const http = require('http')
const { verify } = require('@indent/webhook')

const secret = process.env.SECRET

http
  .createServer((req, res) => {
    const chunks = []
    req.on('data', (chunk) => chunks.push(chunk))
    req.on('end', async () => {
      const text = Buffer.concat(chunks).toString('utf8')
      const answer = (status, body) => {
        res.statusCode = status
        res.end(body)
      }
      try {
        await verify({ secret, headers: req.headers, body: text })
        await verify({ secret, headers: req.headers, body: JSON.parse(text) })
        const altered = await verify({ secret, headers: req.headers, body: text + ' ', throwError: false })
        answer(altered ? 500 : 200, 'an altered body verifies: ' + altered)
      } catch (err) {
        answer(401, err.message)
      }
    })
  })
  .listen(0, '127.0.0.1', function () {
    console.log(this.address().port)
  })
