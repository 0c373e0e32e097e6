#!/usr/bin/env bash
# Verifies an evidence bundle with openssl, jq, sha256sum and xxd alone: no code of Mandate's.
# What each step means is in evidence-format.md. Usage: verify-by-hand.sh BUNDLE TRUST_JSON
set -euo pipefail
if [ $# -ne 2 ] || [ ! -r "$1" ] || [ ! -r "$2" ]; then
  echo "usage: $0 BUNDLE TRUST_JSON (two readable files)" >&2
  exit 2
fi
bundle=$1 trust=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fail() { echo "does not hold: $*" >&2; exit 1; }
hex() { sha256sum | cut -d' ' -f1; }

# envelope FILE WHAT: the DSSE signature, and the certificate's chain to its organisation's CA.
# Leaves the payload in $work/payload and who signed in $who.
known=
envelope() {
  local type payload sig certificate org
  read -r type payload sig certificate < <(
    jq -r '[.payloadType, .payload, .signatures[0].sig, .signatures[0].certificate] | join(" ")' "$1")
  base64 -d <<<"$payload" >"$work/payload"
  base64 -d <<<"$sig" >"$work/sig"
  if [ "$certificate" != "$known" ]; then
    base64 -d <<<"$certificate" | openssl x509 -inform DER -out "$work/cert.pem"
    openssl x509 -in "$work/cert.pem" -noout -pubkey >"$work/key.pem"
    org=$(openssl x509 -in "$work/cert.pem" -noout -subject -nameopt multiline | sed -n 's/ *organizationName *= //p')
    jq -r --arg org "$org" '.orgs[$org].ca[]' "$trust" >"$work/ca.pem"
    openssl verify -CAfile "$work/ca.pem" "$work/cert.pem" >/dev/null || fail "$2: certificate of $org"
    who=$(openssl x509 -in "$work/cert.pem" -noout -subject -nameopt RFC2253) who=${who#subject=}
    known=$certificate
  fi
  # Pre-authentication encoding: DSSEv1 <length> <type> <length> <payload>
  { printf 'DSSEv1 %d %s %d ' "${#type}" "$type" "$(stat -c %s "$work/payload")"; cat "$work/payload"; } >"$work/pae"
  openssl dgst -sha256 -verify "$work/key.pem" -signature "$work/sig" "$work/pae" >/dev/null || fail "$2: signature"
}

# proven FILE WHAT: a ledger entry is in the tree of a checkpoint that a log of the trust roots signed.
# Leaves the entry in $work/entry.
proven() {
  local index size root f s r p name key
  jq -rj '.entry' "$1" >"$work/entry"
  jq -rj '.proof.checkpoint' "$1" >"$work/note"
  # The checkpoint: name, size, root; an empty line; "— name base64(key id, Ed25519 signature)".
  head -n 3 "$work/note" >"$work/text"
  name=$(sed -n 1p "$work/note") size=$(sed -n 2p "$work/note")
  root=$(sed -n 3p "$work/note" | base64 -d | xxd -p -c 32)
  sed -n 5p "$work/note" | sed 's/.* //' | base64 -d | tail -c 64 >"$work/sig"
  key=$(jq -r --arg n "$name" '.logs[] | select(startswith($n + "+"))' "$trust" | sed 's/^[^+]*+[^+]*+//' | base64 -d | tail -c 32 | xxd -p -c 32)
  [ -n "$key" ] || fail "$2: no trust root for the log $name"
  printf '302a300506032b6570032100%s' "$key" | xxd -r -p >"$work/log.der"
  openssl pkeyutl -verify -pubin -keyform DER -inkey "$work/log.der" -rawin -in "$work/text" -sigfile "$work/sig" >/dev/null ||
    fail "$2: checkpoint signature"
  # RFC 9162, 2.1.3.2: leaves are hashed after 00, nodes after 01.
  f=$(jq '.proof.index' "$1") s=$((size - 1))
  r=$({ printf '\0'; cat "$work/entry"; } | hex)
  for p in $(jq -r '.proof.path[]' "$1" | sed 's/sha256://'); do
    if [ $((f & 1)) = 1 ] || [ "$f" = "$s" ]; then
      r=$(printf '01%s%s' "$p" "$r" | xxd -r -p | hex)
      while [ $((f & 1)) = 0 ] && [ "$f" != 0 ]; do f=$((f >> 1)) s=$((s >> 1)); done
    else
      r=$(printf '01%s%s' "$r" "$p" | xxd -r -p | hex)
    fi
    f=$((f >> 1)) s=$((s >> 1))
  done
  [ "$s" = 0 ] && [ "$r" = "$root" ] || fail "$2: inclusion"
}

# 1. The receipt: the anchor is in the log, signed by the orchestrator, and names the body's digest.
tail -n 1 "$bundle" | jq '.anchor' >"$work/anchor"
proven "$work/anchor" "anchor"
jq '.request' "$work/entry" >"$work/request"
envelope "$work/request" "anchor"
body="sha256:$(head -n -1 "$bundle" | hex)"
[ "$(jq -r '.bundle' "$work/payload")" = "$body" ] || fail "the body is not what was anchored"
operation=$(jq -r '.operation_id' "$work/payload")
echo "anchor of $operation at ledger entry $(jq '.position' "$work/entry"), signed by $who"

# 2. Each line: its signature, and that it follows the line before.
n=0 previous=first
while IFS= read -r line; do
  printf '%s' "$line" >"$work/line"
  envelope "$work/line" "line $((n + 1))"
  read -r index before op kind < <(jq -r '[(.predicate.index | tostring), .predicate.previous // "first", .predicate.operation_id,
    (.predicateType | sub(".*/evidence/"; "") | sub("/v1$"; ""))] | join(" ")' "$work/payload")
  [ "$index" = "$n" ] || fail "line $((n + 1)): index"
  [ "$before" = "$previous" ] || fail "line $((n + 1)): not after the line before"
  [ "$op" = "$operation" ] || fail "line $((n + 1)): another operation"
  previous="sha256:$(hex <"$work/line")"
  n=$((n + 1))
  cp "$work/payload" "$work/statement"
  case $kind in
    decision) # 3. The approval: in the log, and the intent is signed by the tenant.
      jq '.predicate.claim.approval' "$work/statement" >"$work/approval"
      proven "$work/approval" "decision"
      [ "$(jq '.verdict.approved' "$work/entry")" = true ] || fail "decision: not approved"
      jq '.request' "$work/entry" >"$work/request"
      envelope "$work/request" "intent"
      echo "line $n: decision at ledger entry $(jq '.position' "$work/entry"), $(jq '.verdict.rules | length' "$work/entry") rules; intent $(jq -r '.id' "$work/payload") signed by $who" ;;
    attestation) # 4. The quote: by the registered key, over the challenge and the claims.
      jq -rj '.predicate.claim.evidence.attest' "$work/statement" | base64 -d >"$work/attest"
      jq -rj '.predicate.claim.evidence.signature' "$work/statement" | base64 -d >"$work/sig"
      jq -rj '.predicate.claim.reference.ak.public_key' "$work/statement" | base64 -d | openssl pkey -pubin -inform DER -out "$work/ak.pem"
      openssl dgst -sha256 -verify "$work/ak.pem" -signature "$work/sig" "$work/attest" >/dev/null || fail "line $n: quote"
      nonce=$(jq -r '.predicate.claim.nonce' "$work/statement" | sed 's/sha256://')
      claims=$(jq -rj '.predicate.claim.evidence.claims' "$work/statement" | hex)
      extra=$(printf '%s%s' "$nonce" "$claims" | xxd -r -p | hex)
      xxd -p "$work/attest" | tr -d '\n' | grep -q "0020$extra" || fail "line $n: the quote is not for this challenge"
      # PCR <- SHA-256(PCR, SHA-256(line)), from the registered baseline, must give the quoted digest.
      pcr=$(jq -r '.predicate.claim.reference.ak.pcr_baseline' "$work/statement" | sed 's/sha256://')
      while IFS= read -r event; do
        pcr=$(printf '%s%s' "$pcr" "$(printf '%s' "$event" | hex)" | xxd -r -p | hex)
      done < <(jq -r '.predicate.claim.evidence.log[]' "$work/statement")
      quoted=$(printf '%s' "$pcr" | xxd -r -p | hex)
      [ "$(tail -c 32 "$work/attest" | xxd -p -c 32)" = "$quoted" ] || fail "line $n: the event log does not replay"
      echo "line $n: quote over $(jq '.predicate.claim.evidence.log | length' "$work/statement") measurements, for this challenge" ;;
    outcome) echo "line $n: $(jq -r '.predicate.claim.state' "$work/statement")" ;;
  esac
done < <(head -n -1 "$bundle")
echo "holds: $n lines, body $body"
