import api from './index.cjs'

export const { LatchkeyAPI, IndentAPI, LatchkeyError } = api
