# hedgerow-control: what a control plane may. It makes and withdraws nodes, keeps the log
# of revisions and has them signed. It may touch no policy, no issuer, no root, no mount
# and no login but those of nodes, which can be given one policy only: hedgerow-node.

# Who a node may be. Names are exact, and everything else of a certificate is fixed.
path "pki_mesh/roles/+" {
  capabilities = ["create", "read", "update", "delete"]
  allowed_parameters = {
    "allowed_uri_sans"            = []
    "allow_any_name"              = ["false"]
    "allow_bare_domains"          = ["false"]
    "allow_ip_sans"               = ["false"]
    "allow_localhost"             = ["false"]
    "allow_wildcard_certificates" = ["false"]
    "client_flag"                 = ["true"]
    "key_bits"                    = ["256"]
    "key_type"                    = ["ec"]
    "max_ttl"                     = ["24h"]
    "no_store"                    = ["true"]
    "not_before_duration"         = ["5m"]
    "require_cn"                  = ["false"]
    "server_flag"                 = ["true"]
    "use_csr_common_name"         = ["false"]
  }
}
path "pki_node/roles/+" {
  capabilities = ["create", "read", "update", "delete"]
  allowed_parameters = {
    "allowed_domains"             = []
    "allowed_uri_sans"            = []
    "allow_any_name"              = ["false"]
    "allow_bare_domains"          = ["true"]
    "allow_ip_sans"               = ["false"]
    "allow_localhost"             = ["false"]
    "allow_wildcard_certificates" = ["false"]
    "client_flag"                 = ["true"]
    "key_bits"                    = ["256"]
    "key_type"                    = ["ec"]
    "max_ttl"                     = ["168h"]
    "no_store"                    = ["true"]
    "not_before_duration"         = ["5m"]
    "ou"                          = []
    "require_cn"                  = ["true"]
    "server_flag"                 = ["true"]
    "use_csr_common_name"         = ["true"]
  }
}

# Who logs in as a node: once with a secret_id that leaves Vault wrapped only, then with
# the node's certificate.
path "auth/approle/role/+" {
  capabilities = ["create", "read", "update", "delete"]
  allowed_parameters = {
    "bind_secret_id"          = ["true"]
    "role_id"                 = []
    "secret_id_bound_cidrs"   = []
    "secret_id_num_uses"      = ["1"]
    "secret_id_ttl"           = ["15m"]
    "token_max_ttl"           = ["1h"]
    "token_no_default_policy" = ["true"]
    "token_policies"          = ["hedgerow-node"]
    "token_ttl"               = ["1h"]
  }
}
path "auth/approle/role/+/secret-id" {
  capabilities     = ["update"]
  min_wrapping_ttl = "1s"
  max_wrapping_ttl = "15m"
  allowed_parameters = {
    "cidr_list" = []
  }
}
path "auth/approle/role/hedgerow-control" {
  capabilities = ["deny"]
}
path "auth/approle/role/hedgerow-control/*" {
  capabilities = ["deny"]
}
path "auth/cert/certs/+" {
  capabilities = ["create", "read", "update", "delete"]
  allowed_parameters = {
    "allowed_common_names"         = []
    "allowed_organizational_units" = []
    "allowed_uri_sans"             = []
    "certificate"                  = []
    "token_max_ttl"                = ["24h"]
    "token_no_default_policy"      = ["true"]
    "token_policies"               = ["hedgerow-node"]
    "token_ttl"                    = ["1h"]
  }
}

# Nodes are entities, without policies of their own. To disable one ends all its tokens.
path "identity/entity/name/+" {
  capabilities = ["create", "read", "update", "delete"]
  allowed_parameters = {
    "disabled" = []
    "metadata" = []
  }
}
path "identity/entity-alias" {
  capabilities = ["create", "update"]
  allowed_parameters = {
    "canonical_id"   = []
    "mount_accessor" = ["auth_approle_*", "auth_cert_*"]
    "name"           = []
  }
}

# What only one node may read.
path "kv/data/hedgerow/nodes/+/*" {
  capabilities = ["create", "read", "update"]
}
path "kv/metadata/hedgerow/nodes/*" {
  capabilities = ["read", "list", "delete"]
}

# Which nodes there are, and what becomes of the tokens with which hosts join.
path "pki_mesh/roles" {
  capabilities = ["list"]
}
path "kv/data/hedgerow/joins/+" {
  capabilities = ["create", "read", "update"]
}
path "kv/metadata/hedgerow/joins" {
  capabilities = ["list"]
}
path "kv/metadata/hedgerow/joins/+" {
  capabilities = ["delete"]
}

# The log of revisions. What is in it is never written again, and a head never goes, so
# that nobody can make a second history. Chunks may go when a snapshot holds what they say.
path "kv/data/hedgerow/log/*" {
  capabilities = ["create", "read"]
}
path "kv/metadata/hedgerow/log/*" {
  capabilities = ["list", "delete"]
}
path "kv/metadata/hedgerow/log/+/head" {
  capabilities = ["deny"]
}
path "kv/data/hedgerow/snapshot" {
  capabilities = ["create", "read", "update"]
}
path "kv/data/hedgerow/mesh" {
  capabilities = ["read"]
}

# What signs configuration.
path "transit/sign/hedgerow" {
  capabilities = ["update"]
}
path "transit/keys/hedgerow" {
  capabilities = ["read"]
}

# Whether a wrapped secret_id was taken, and its own token.
path "auth/token/lookup-accessor" {
  capabilities = ["update"]
}
path "auth/token/renew-self" {
  capabilities = ["update"]
}
