// The portal's own database.
export default {
  customers: {
    async list() {
      return [
        { id: 'acme', name: 'Acme Ltd', plan: 'enterprise' },
        { id: 'globex', name: 'Globex', plan: 'free' }
      ]
    }
  }
}
