# hedgerow-node: what a node of the mesh may. One policy for all of them: Vault puts the
# name of the entity that logged in, which is the node's, into the paths.

# Certificates of its services and gateways, and its own. The key stays with the node. What
# it may say beside the request is listed: by not_after it would choose an end that no
# max_ttl of a role bounds, and outlive its own withdrawal.
path "pki_mesh/sign/{{identity.entity.name}}" {
  capabilities = ["update"]
  allowed_parameters = {
    "csr"                  = []
    "exclude_cn_from_sans" = []
    "format"               = []
    "ttl"                  = []
    "uri_sans"             = []
  }
}
path "pki_node/sign/{{identity.entity.name}}" {
  capabilities = ["update"]
  allowed_parameters = {
    "common_name"          = []
    "csr"                  = []
    "exclude_cn_from_sans" = []
    "format"               = []
    "ttl"                  = []
    "uri_sans"             = []
  }
}

# Its secrets, such as the password of its user in Redis.
path "kv/data/hedgerow/nodes/{{identity.entity.name}}/*" {
  capabilities = ["read"]
}

path "auth/token/renew-self" {
  capabilities = ["update"]
}
