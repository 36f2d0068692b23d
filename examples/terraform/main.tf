# Templates of access requests as code, over the REST API.
#
# There is no latchkey provider yet. Mastercard/restapi talks to any JSON API: what it
# makes it reads again, changes with PUT and deletes, so that plan and destroy mean
# what they say. The credential comes from the environment (TF_VAR_latchkey_key) and
# ends up in no file but the state, which is to be kept as a secret.
terraform {
  required_version = ">= 1.5"
  required_providers {
    restapi = {
      source  = "Mastercard/restapi"
      version = "~> 1.20"
    }
  }
}

variable "latchkey_url" {
  type    = string
  default = "http://127.0.0.1:5539"
}

variable "latchkey_key" {
  description = "An admin's personal token, or a key with the scope access_requests_manage."
  type        = string
  sensitive   = true
}

variable "dba_ids" {
  description = "Ids of the persons who decide."
  type        = list(string)
}

provider "restapi" {
  uri                  = var.latchkey_url
  write_returns_object = true
  update_method        = "PUT"
  id_attribute         = "id"
  headers = {
    Authorization = "Bearer ${var.latchkey_key}"
    Content-Type  = "application/json"
  }
}

resource "restapi_object" "internal_db" {
  path = "/v1/applications"
  data = jsonencode({ name = "internal-db" })
}

resource "restapi_object" "db_readonly_role" {
  path = "/v1/entitlements"
  data = jsonencode({
    app_id  = restapi_object.internal_db.id
    name    = "db-readonly"
    entries = { database = [{ f = "orders", p = 2, a = ["connect"] }] }
    claims  = { roles = ["db_readonly"] }
  })
}

resource "restapi_object" "dba_team" {
  path = "/v1/groups"
  data = jsonencode({ name = "dba-team", member_ids = var.dba_ids })
}

resource "restapi_object" "db_readonly" {
  path = "/api/v1/access-request-templates"
  data = jsonencode({
    name        = "Database read-only access"
    description = "Grants read-only database credentials for up to 8 hours."
    app_id      = restapi_object.internal_db.id

    mapping_ids        = [restapi_object.db_readonly_role.id]
    allowed_durations  = [60, 240, 480] # 1h, 4h, 8h
    approver_group_ids = [restapi_object.dba_team.id]

    require_justification = true
    auto_approve          = false
    notification_policy   = "all"

    escalation_after_mins = 30
    escalation_group_id   = restapi_object.dba_team.id

    # As a provider would give it: a string that holds JSON is taken, too.
    custom_fields = jsonencode([{ label = "Ticket", type = "text", required = true }])
  })
}

output "template_id" {
  value = restapi_object.db_readonly.id
}
