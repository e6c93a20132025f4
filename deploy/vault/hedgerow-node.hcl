# hedgerow-node: what a node of the mesh may. One policy for all of them: Vault puts the
# name of the entity that logged in, which is the node's, into the paths.

# Certificates of its services and gateways, and its own. The key stays with the node.
path "pki_mesh/sign/{{identity.entity.name}}" {
  capabilities = ["update"]
}
path "pki_node/sign/{{identity.entity.name}}" {
  capabilities = ["update"]
}

# Its secrets, such as the password of its user in Redis.
path "kv/data/hedgerow/nodes/{{identity.entity.name}}/*" {
  capabilities = ["read"]
}

path "auth/token/renew-self" {
  capabilities = ["update"]
}
