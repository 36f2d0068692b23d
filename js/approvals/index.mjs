import approvals from './index.cjs'

export const { approval, getErrorKind, ApprovalError, LatchkeyError } = approvals
