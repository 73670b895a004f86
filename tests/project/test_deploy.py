"""The deployments of replicas (nginx, compose, Kubernetes), compared with the settings, routes and each other."""

import re
import subprocess
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from fastapi.testclient import TestClient

from service.app import create_app
from service.server.server import ABORT_SECONDS
from service.settings import Settings, variable
from tests.support.nginx import MISSING, NGINX, TEMPORARY

DEPLOY = Path(__file__).parents[2] / "service" / "deploy"
DOCKERFILE = (DEPLOY.parents[1] / "Dockerfile").read_text("utf-8")
NGINX_CONF = (DEPLOY / "nginx.conf").read_text("utf-8")
REPLICAS = {
    name: (DEPLOY / name).read_text("utf-8")
    for name in ("replicas.conf", "compose.replicas.conf", "kubernetes/replicas.conf")
}
COMPOSE = yaml.safe_load((DEPLOY / "compose.replicas.yaml").read_text("utf-8"))
SERVICES = COMPOSE["services"]
KUSTOMIZATION = yaml.safe_load((DEPLOY / "kustomization.yaml").read_text("utf-8"))
OBJECTS = [
    document
    for file in sorted((DEPLOY / "kubernetes").glob("*.yaml"))
    for document in yaml.safe_load_all(file.read_text("utf-8"))
]
# The versions of Kubernetes that the manifests are checked against.
KUBERNETES = ["1.31", "1.37"]
# Variables of the storage's packages, not of the service.
OTHERS = re.compile("AWS_[A-Z_]+")
SETTINGS = {variable(name): name for name in Settings.model_fields}
DEFAULTS = Settings()


@pytest.fixture(scope="module")
def client():
    with TestClient(create_app(Settings(model="photo-small", device="cpu", precision="float32"))) as client:
        yield client


# nginx


def value(text, directive):
    """The first argument of each use of a directive."""
    return re.findall(rf"^ *{directive} ([^ ;]+)[^;]*;", text, re.MULTILINE)


def seconds(text):
    return float(re.fullmatch(r"(\d+)s", text)[1])


def test_nginx_takes_the_uploads_that_the_service_takes():
    mebibytes = {"m": 1, "g": 1024}
    sizes = [int(size[:-1]) * mebibytes[size[-1]] * 2**20 for size in value(NGINX_CONF, "client_max_body_size")]

    assert sizes[0] == DEFAULTS.max_bytes
    assert set(sizes[1:]) == {DEFAULTS.max_batch_bytes}


def test_nginx_waits_for_an_answer_until_the_deadline():
    longest = seconds(value(NGINX_CONF, "proxy_read_timeout")[0])

    assert longest == DEFAULTS.deadline + 10
    # A request that took so long is not sent to a second replica.
    assert seconds(value(NGINX_CONF, "proxy_next_upstream_timeout")[0]) < longest


@pytest.mark.parametrize("name", REPLICAS)
def test_nginx_closes_idle_connections_before_the_service_does(name):
    for text in value(REPLICAS[name], "keepalive_timeout"):
        assert seconds(text) < DEFAULTS.idle_seconds


@pytest.mark.parametrize("name", REPLICAS)
def test_both_groups_list_the_same_replicas_without_counting_failures(name):
    groups = re.findall(r"^upstream (\w+) \{(.*?)^\}", REPLICAS[name], re.MULTILINE | re.DOTALL)
    servers = [re.findall(r"^ *server (.*);", group, re.MULTILINE) for _, group in groups]

    assert [group for group, _ in groups] == ["denoise", "denoise_by_client"]
    assert servers[0] == servers[1] != []
    assert all("max_fails=0" in server for server in servers[0])


@pytest.mark.parametrize("name", REPLICAS)
def test_clients_are_assigned_by_address_if_replicas_share_a_name(name):
    """nginx's consistent hash takes a server's name, so replicas that the DNS lists under one name take turns."""
    [hashed] = re.findall(r"^ *hash (.*);", REPLICAS[name], re.MULTILINE)

    assert hashed.endswith(" consistent") == (" resolve" not in REPLICAS[name])


def test_every_route_that_takes_a_post_is_known_as_pure_or_not(client):
    """A new route must be repeatable to get `non_idempotent`."""
    blocks = re.findall(r"^    location = (\S+) \{(.*?)^    \}", NGINX_CONF, re.MULTILINE | re.DOTALL)
    pure = {path for path, block in blocks if "non_idempotent" in block}
    posts = {path for path, methods in client.get("/openapi.json").json()["paths"].items() if "post" in methods}
    changing = {"/jobs", "/models/{name}/activate", "/models/{name}/rollback"}

    assert pure == {"/denoise", "/denoise/batch", "/estimate", "/preview"}
    assert posts == pure | changing


def test_the_replicas_of_compose_are_accepted_by_nginx(tmp_path):
    if NGINX is None:
        pytest.skip(MISSING)
    main = tmp_path / "nginx.conf"
    log = f"{tmp_path}/access.log"
    (tmp_path / "site.conf").write_text(NGINX_CONF.replace("/var/log/nginx/access.log", log))
    main.write_text(
        f"pid {tmp_path}/pid;\nevents {{}}\nhttp {{\n{TEMPORARY.format(folder=tmp_path)}"
        f"include {DEPLOY}/compose.replicas.conf;\ninclude {tmp_path}/site.conf;\n}}\n"
    )

    checked = subprocess.run([NGINX, "-t", "-e", "stderr", "-c", main], capture_output=True, text=True)

    assert checked.returncode == 0, checked.stderr


# Compose


def environment_of(service):
    return SERVICES[service].get("environment", {})


@pytest.mark.parametrize("name", ["replica-1", "replica-2", "keys"])
def test_the_environment_holds_settings_with_valid_values(name):
    given = {key: text for key, text in environment_of(name).items() if not OTHERS.fullmatch(key)}

    assert set(given) <= set(SETTINGS)
    Settings(**{SETTINGS[key]: re.sub(r"\$\{.*?\}", "secret", text) or None for key, text in given.items()})


def test_nginx_is_told_where_the_replicas_are_and_they_trust_it():
    address = {name: each["networks"]["denoise"]["ipv4_address"] for name, each in SERVICES.items()
               if isinstance(each.get("networks"), dict)}  # fmt: skip
    listed = set(re.findall(r"server ([\d.]+):8000", REPLICAS["compose.replicas.conf"]))

    assert listed == {address["replica-1"], address["replica-2"]}
    assert {environment_of(name)["DENOISE_PROXIES"] for name in ("replica-1", "replica-2")} == {address["nginx"]}


def test_the_replicas_have_time_to_stop():
    given = environment_of("replica-1")
    longest = float(given["DENOISE_DRAIN_SECONDS"]) + DEFAULTS.grace_seconds + ABORT_SECONDS

    for name in ("replica-1", "replica-2"):
        assert seconds(SERVICES[name]["stop_grace_period"]) > longest


def test_the_volumes_exist_in_the_image_and_in_the_file():
    folders = re.search(r"install --directory .* --mode 700 (.*) *\\?$", DOCKERFILE, re.MULTILINE)[1].split()
    volumes = [volume for each in SERVICES.values() for volume in each.get("volumes", [])]
    mounts = [volume.split(":") for volume in volumes if ":" in volume]

    assert {source for source, *_ in mounts if not source.startswith("./")} == set(COMPOSE["volumes"])
    assert all((DEPLOY / source).exists() for source, *_ in mounts if source.startswith("./"))
    assert {target for source, target, *_ in mounts if source == "keys"} == {"/keys"} <= set(folders)


def test_only_this_machine_reaches_the_proxy_and_nobody_the_rest():
    ports = {name: each["ports"] for name, each in SERVICES.items() if "ports" in each}

    assert ports == {"nginx": ["127.0.0.1:8000:8080"]}
    assert value(NGINX_CONF, "listen") == ["8080"]


def test_the_passwords_are_made_by_the_script_and_differ():
    made = [
        subprocess.run(["sh", DEPLOY / "secrets.sh"], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    ]
    lines = [line for text in made for line in text.splitlines()]
    needed = set(re.findall(r"\$\{(\w+):\?", (DEPLOY / "compose.replicas.yaml").read_text("utf-8")))

    assert {line.partition("=")[0] for line in lines} == needed
    assert len({line.partition("=")[2] for line in lines}) == 4
    assert all(re.fullmatch(r"\w+=[0-9a-f]{48}", line) for line in lines)


# Kubernetes


def named(document):
    return f"{document['kind']} {document['metadata']['name']}"


BY_NAME = {named(document): document for document in OBJECTS}
DEPLOYMENTS = [document for document in OBJECTS if document["kind"] == "Deployment"]
REPLICA, PROXY = BY_NAME["Deployment denoise"], BY_NAME["Deployment denoise-proxy"]


def pod_of(deployment):
    return deployment["spec"]["template"]["spec"]


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("document", OBJECTS, ids=named)
def test_a_manifest_fits_its_schema(document, version):
    kubernetes_validate.validate(document, version, strict=True)


def test_a_manifest_with_a_mistake_does_not_fit():
    with pytest.raises(kubernetes_validate.ValidationError, match="replica"):
        kubernetes_validate.validate({**PROXY, "spec": {**PROXY["spec"], "replica": 2}}, "1.37", strict=True)


def test_kustomize_is_given_every_file():
    files = {str(file.relative_to(DEPLOY)) for file in (DEPLOY / "kubernetes").glob("*.yaml")}
    [config] = KUSTOMIZATION["configMapGenerator"]

    assert set(KUSTOMIZATION["resources"]) == files
    assert all((DEPLOY / file.partition("=")[2]).exists() for file in config["files"])
    assert {"configMap": {"name": config["name"]}, "name": "configuration"} in pod_of(PROXY)["volumes"]
    assert BY_NAME["Namespace denoise"]["metadata"]["name"] == KUSTOMIZATION["namespace"]
    assert {image["name"] for image in KUSTOMIZATION["images"]} == {pod_of(REPLICA)["containers"][0]["image"]}


def test_the_settings_of_the_replicas_are_valid():
    given = {key: text for key, text in BY_NAME["ConfigMap denoise-settings"]["data"].items()
             if not OTHERS.fullmatch(key)}  # fmt: skip
    container = pod_of(REPLICA)["containers"][0]

    assert {"configMapRef": {"name": "denoise-settings"}} in container["envFrom"]
    assert set(given) | {each["name"] for each in container["env"]} <= set(SETTINGS)
    # The secret has the database.
    Settings(database="postgresql://host/name", **{SETTINGS[key]: text or None for key, text in given.items()})


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=named)
def test_services_and_budgets_select_the_pods(deployment):
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    selectors = [
        document["spec"]["selector"].get("matchLabels", document["spec"]["selector"])
        for document in OBJECTS
        if document["kind"] in ("Service", "PodDisruptionBudget", "Deployment")
    ]

    assert selectors.count(labels) == 3


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=named)
def test_pods_run_without_privileges_and_with_limits(deployment):
    pod = pod_of(deployment)

    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    for container in pod["containers"]:
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert {"cpu", "memory"} <= set(container["resources"]["requests"])
        assert "memory" in container["resources"]["limits"]
        assert "livenessProbe" in container
        assert "readinessProbe" in container


def test_probes_and_ports_are_those_of_the_service(client):
    [container] = pod_of(REPLICA)["containers"]
    probes = {name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}

    assert all(client.get(probe["path"]).status_code == 200 for probe in probes.values())
    assert probes["readiness"]["path"] == "/health/ready"
    assert probes["liveness"]["path"] == "/health/live"
    assert f"EXPOSE {container['ports'][0]['containerPort']}\n" in DOCKERFILE
    assert value(NGINX_CONF, "listen") == [str(pod_of(PROXY)["containers"][0]["ports"][0]["containerPort"])]


def test_the_pods_have_time_to_stop():
    drain = float(BY_NAME["ConfigMap denoise-settings"]["data"]["DENOISE_DRAIN_SECONDS"])
    pause = pod_of(PROXY)["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    longest = seconds(value(NGINX_CONF, "proxy_read_timeout")[0])

    assert pod_of(REPLICA)["terminationGracePeriodSeconds"] > drain + DEFAULTS.grace_seconds + ABORT_SECONDS
    assert pod_of(PROXY)["terminationGracePeriodSeconds"] > pause + longest


def test_replicas_are_drained_until_nginx_has_asked_the_dns_again():
    drain = float(BY_NAME["ConfigMap denoise-settings"]["data"]["DENOISE_DRAIN_SECONDS"])
    valid = re.search(r"valid=(\d+)s", REPLICAS["kubernetes/replicas.conf"])[1]

    # CoreDNS keeps an answer for as long again.
    assert drain > 2 * int(valid)


def test_nginx_asks_the_dns_for_the_replicas_of_this_namespace():
    service = BY_NAME["Service denoise-replicas"]
    name = f"{service['metadata']['name']}.{KUSTOMIZATION['namespace']}.svc.cluster.local"
    port = service["spec"]["ports"][0]["port"]

    assert service["spec"]["clusterIP"] == "None"
    assert set(re.findall(r"server (\S+) resolve", REPLICAS["kubernetes/replicas.conf"])) == {f"{name}:{port}"}


def test_the_autoscaler_uses_metrics_of_the_service(client):
    scaler = BY_NAME["HorizontalPodAutoscaler denoise"]["spec"]
    names = {next(metric[kind]["metric"]["name"] for kind in ("pods", "external") if kind in metric)
             for metric in scaler["metrics"]}  # fmt: skip
    exposed = {line.split("{")[0].split()[0] for line in client.get("/metrics").text.splitlines()}

    assert names == {"denoise_queue_pixels", "denoise_jobs_waiting"} <= exposed
    assert scaler["scaleTargetRef"]["name"] == REPLICA["metadata"]["name"]
    assert "replicas" not in REPLICA["spec"]


def test_the_ingress_leads_to_the_proxy():
    [rule] = BY_NAME["Ingress denoise"]["spec"]["rules"]
    backend = rule["http"]["paths"][0]["backend"]["service"]
    service = BY_NAME[f"Service {backend['name']}"]

    assert service["spec"]["selector"] == PROXY["spec"]["selector"]["matchLabels"]
    assert backend["port"]["name"] == service["spec"]["ports"][0]["name"]
