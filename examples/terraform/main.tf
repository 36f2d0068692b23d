# Templates of access requests as code, over the REST API.
#
# There is no latchkey provider yet. Mastercard/restapi talks to any JSON API: what it
# makes with POST it reads again, changes with PUT and deletes.
terraform {
  required_version = ">= 1.10" # of ephemeral variables
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
  ephemeral   = true # in no plan and no state
}

variable "run" {
  description = "What the audit trail and the log know this run by, as its request id."
  type        = string
  default     = "terraform"
}

variable "dba_ids" {
  description = "Ids of the persons who decide."
  type        = list(string)
}

variable "manager_ids" {
  description = "Ids of the persons who decide what has waited for too long."
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
    X-Request-ID  = var.run
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

  lifecycle { # what a template names is deleted after the template has let go of it
    create_before_destroy = true
  }
}

resource "restapi_object" "dba_team" {
  path = "/v1/groups"
  data = jsonencode({ name = "dba-team", member_ids = var.dba_ids })

  lifecycle { # here too
    create_before_destroy = true
  }
}

resource "restapi_object" "engineering_managers" {
  path = "/v1/groups"
  data = jsonencode({ name = "engineering-managers", member_ids = var.manager_ids })

  lifecycle {
    create_before_destroy = true
  }
}

resource "restapi_object" "db_readonly" {
  path = "/v1/access-request-templates"
  data = jsonencode({
    name        = "Database read-only access"
    description = "Grants read-only database credentials for up to 8 hours."
    app_id      = restapi_object.internal_db.id

    mapping_ids        = [restapi_object.db_readonly_role.id]
    allowed_durations  = [60, 240, 480] # 1h, 4h, 8h
    approver_group_ids = [restapi_object.dba_team.id]

    # What stands here is watched, see below: so do the defaults that matter.
    allowed_group_ids     = []
    approvals_required    = 1
    allow_self_approval   = false
    auto_approve          = false
    auto_approve_when     = null
    auto_approve_sources  = []
    require_justification = true
    notification_policy   = "all"

    escalation_after_mins = 30
    escalation_group_id   = restapi_object.engineering_managers.id

    custom_fields = [{ label = "Ticket", type = "text", required = true, placeholder = "", options = [] }]
  })
}

# The provider does not compare what it reads with data: a plan would not tell of what
# somebody has changed past Terraform. This does, as a warning at every plan and apply.
locals {
  watched = [
    restapi_object.internal_db, restapi_object.db_readonly_role, restapi_object.dba_team,
    restapi_object.engineering_managers, restapi_object.db_readonly,
  ]
  field_id = "/\"id\":\"[^\"]*\",/" # given by the server
  differs = flatten([for o in local.watched : [
    for member, value in jsondecode(o.data) : "${o.path}/${o.id} ${member}"
    if jsonencode(value) != replace(jsonencode(jsondecode(o.api_response)[member]), local.field_id, "")
  ]])
}

check "nothing_differs" {
  assert {
    condition     = length(local.differs) == 0
    error_message = "The server's is another: ${join(", ", local.differs)}. What this plan does not change was changed past Terraform."
  }
}

output "template_id" {
  value = restapi_object.db_readonly.id
}
