#!/bin/sh
# Prints new passwords for compose.replicas.yaml, in the form of an .env file.
set -eu
password() {
    head -c 24 /dev/urandom | od -An -v -t x1 | tr -d ' \n'
}
echo "DATABASE_PASSWORD=$(password)"
echo "S3_SECRET=$(password)"
