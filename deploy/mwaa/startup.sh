# shellcheck shell=bash
#
# MWAA sources this with bash before a component of Airflow starts; what it exports becomes the
# component's environment. The DAGs folder may not be there yet, so that this needs no other file.
#
# On workers it makes the environment that has dbt, once for a lock. Airflow starts whether or not
# that works; without it the tasks fail, and this file's output says why.
#
# This is the template: deploy/mwaa/startup.py writes the settings and the locks into it.
# Never `exit` here, not in a subshell either: MWAA has made an alias of it.

export PIPELINE_DBT_MODE=local
export AIRFLOW__COSMOS__ENABLE_TELEMETRY=False
export AIRFLOW__USAGE_DATA_COLLECTION__ENABLED=False
# The DAGs folder, in which the project lies, is not written to.
export DBT_TARGET_PATH="${TMPDIR:-/tmp}/pinterest/target"
export DBT_LOG_PATH="${TMPDIR:-/tmp}/pinterest/logs"

#@ settings

pinterest_say() {
    printf 'startup.sh: %s\n' "$*"
}

# pinterest_secret NAME ID: export a variable from Secrets Manager, where tasks run.
pinterest_secret() {
    local said
    case "${MWAA_AIRFLOW_COMPONENT:-worker}" in
        worker | hybrid) ;;
        *) return 0 ;;
    esac
    # What it warns of must not become part of the secret.
    if said="$(python3 -c '
import os, sys
try:
    import boto3
    client = boto3.client("secretsmanager", region_name=os.environ.get("AWS_REGION"))
    answer = client.get_secret_value(SecretId=sys.argv[1])
    print(answer["SecretString"])
except Exception as error:
    print(" ".join(str(error).split()) or type(error).__name__)
    sys.exit(1)' "$2" 2>/dev/null)"; then
        export "$1=$said"
    else
        pinterest_say "error: $1 is not set, as the secret $2 cannot be read: $said"
    fi
}

#@ secrets

# What builds the packages that come as source.
pinterest_build_lock() {
    cat <<'END_OF_BUILD_LOCK'
#@ build lock
END_OF_BUILD_LOCK
}

pinterest_lock() {
    cat <<'END_OF_LOCK'
#@ lock
END_OF_LOCK
}

# Digest of what an environment is made from: the locks and the interpreter.
pinterest_digest() {
    { pinterest_build_lock; pinterest_lock; } | python3 -c '
import hashlib, sys
what = sys.version.encode() + sys.base_prefix.encode() + sys.stdin.buffer.read()
print(hashlib.sha256(what).hexdigest())'
}

# pinterest_step WHAT COMMAND...: run a command of a few minutes at the most, say what went wrong.
pinterest_step() {
    local what="$1" said code limit=() left
    shift
    # MWAA gives up on a component whose startup script takes five minutes.
    if command -v timeout >/dev/null; then
        left=$((PIPELINE_DBT_VENV_SECONDS - SECONDS + pinterest_began))
        limit=(timeout "$((left > 0 ? left : 1))")
    fi
    said="$(PIP_USER=false "${limit[@]}" "$@" 2>&1)" && return 0
    code=$?
    [ "$code" = 124 ] && said="it took longer than $PIPELINE_DBT_VENV_SECONDS s altogether"
    pinterest_say "error: $what failed (exit code $code):"
    printf '%s\n' "$said" | tail -n 8 | sed 's/^/startup.sh:   /'
    return 1
}

pinterest_install() {
    local venv="$1" python="$1/bin/python" lock
    local pip=("$python" -m pip install --quiet --no-input --disable-pip-version-check
        --require-hashes --no-deps --no-cache-dir)
    # An empty mark: whatever ends this half-way, the next start may remove the folder.
    mkdir -p "$venv" && : >"$venv/pyvenv.cfg" || return 1
    pinterest_step "making a virtual environment" python3 -m venv "$venv" || return 1
    pinterest_build_lock >"$venv/build.txt" && pinterest_lock >"$venv/lock.txt" || return 1
    pinterest_step "installing what builds packages" "${pip[@]}" -r "$venv/build.txt" || return 1
    pinterest_step "installing dbt" "${pip[@]}" --no-build-isolation --use-pep517 \
        -r "$venv/lock.txt" || return 1
    pinterest_step "importing dbt" "$python" -c 'import dbt.cli.main' || return 1
}

pinterest_make_venv() {
    local venv="$1" digest pinterest_began=$SECONDS
    local PIPELINE_DBT_VENV_SECONDS="${PIPELINE_DBT_VENV_SECONDS:-240}"
    if ! digest="$(pinterest_digest)" || [ -z "$digest" ]; then
        pinterest_say "error: python3 does not run"
        return 1
    fi
    if [ "$(cat "$venv/.digest" 2>/dev/null)" = "$digest" ]; then
        pinterest_say "dbt's environment is there: $venv"
        return 0
    fi
    if [ -e "$venv" ] && [ ! -e "$venv/pyvenv.cfg" ]; then
        pinterest_say "error: $venv is no virtual environment; remove it or set PIPELINE_DBT_VENV"
        return 1
    fi
    pinterest_say "making dbt's environment: $venv"
    rm -rf "$venv"
    # The digest last: what has none is not whole.
    if pinterest_install "$venv" && printf '%s\n' "$digest" >"$venv/.digest"; then
        pinterest_say "made in $((SECONDS - pinterest_began)) s"
        return 0
    fi
    rm -rf "$venv"
    pinterest_say "error: no dbt after $((SECONDS - pinterest_began)) s; Airflow starts, and the" \
        "DAG's tasks fail until this component starts again and this works"
    return 1
}

pinterest_startup() {
    local venv="${PIPELINE_DBT_VENV:-${AIRFLOW_HOME:-/usr/local/airflow}/dbt_venv}"
    export PIPELINE_PYTHON="$venv/bin/python"
    case "${MWAA_AIRFLOW_COMPONENT:-worker}" in
        worker | hybrid) pinterest_make_venv "$venv" || true ;;
        *) pinterest_say "${MWAA_AIRFLOW_COMPONENT} needs no dbt" ;;
    esac
}

pinterest_startup
unset -f pinterest_say pinterest_secret pinterest_build_lock pinterest_lock pinterest_digest \
    pinterest_step pinterest_install pinterest_make_venv pinterest_startup
