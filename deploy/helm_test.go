package deploy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/yaml"
)

// kubernetes is the version that charts are rendered for: helm, built without
// its release's flags, would take itself to be of a very old one.
const kubernetes = "--kube-version=1.34.0"

func runHelm(args ...string) (string, error) {
	cmd := exec.Command(helm, args...)
	var out, failed bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &failed
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("helm %s: %w\n%s%s", strings.Join(args, " "), err, &failed, &out)
	}
	return out.String(), nil
}

// manifests are what a chart renders to, decoded as the API server decodes it:
// unknown and doubled fields are errors.
type manifests struct {
	deployment  *appsv1.Deployment
	job         *batchv1.Job
	service     *corev1.Service
	config      *corev1.ConfigMap
	account     *corev1.ServiceAccount
	claim       *corev1.PersistentVolumeClaim
	network     *networkingv1.NetworkPolicy
	disruption  *policyv1.PodDisruptionBudget
	kinds       []string
	pods        map[string]corev1.PodTemplateSpec // by kind
	annotations map[string]string                 // of the job
}

func decode(text string) (*manifests, error) {
	m := &manifests{pods: map[string]corev1.PodTemplateSpec{}}
	for document := range strings.SplitSeq("\n"+text, "\n---\n") {
		var meta metav1.TypeMeta
		if err := yaml.Unmarshal([]byte(document), &meta); err != nil {
			return nil, err
		}
		if meta.Kind == "" {
			if strings.Trim(document, "\n") != "" {
				return nil, fmt.Errorf("a document without a kind:\n%s", document)
			}
			continue
		}
		m.kinds = append(m.kinds, meta.Kind)
		var into any
		switch meta.APIVersion + " " + meta.Kind {
		case "apps/v1 Deployment":
			m.deployment = &appsv1.Deployment{}
			into = m.deployment
		case "batch/v1 Job":
			m.job = &batchv1.Job{}
			into = m.job
		case "v1 Service":
			m.service = &corev1.Service{}
			into = m.service
		case "v1 ConfigMap":
			m.config = &corev1.ConfigMap{}
			into = m.config
		case "v1 ServiceAccount":
			m.account = &corev1.ServiceAccount{}
			into = m.account
		case "v1 PersistentVolumeClaim":
			m.claim = &corev1.PersistentVolumeClaim{}
			into = m.claim
		case "networking.k8s.io/v1 NetworkPolicy":
			m.network = &networkingv1.NetworkPolicy{}
			into = m.network
		case "policy/v1 PodDisruptionBudget":
			m.disruption = &policyv1.PodDisruptionBudget{}
			into = m.disruption
		default:
			return nil, fmt.Errorf("%s %s: not a kind that this chart should make", meta.APIVersion, meta.Kind)
		}
		if err := yaml.UnmarshalStrict([]byte(document), into); err != nil {
			return nil, fmt.Errorf("%s: %w\n%s", meta.Kind, err, document)
		}
	}
	if m.deployment != nil {
		m.pods["Deployment"] = m.deployment.Spec.Template
	}
	if m.job != nil {
		m.pods["Job"] = m.job.Spec.Template
		m.annotations = m.job.Annotations
	}
	return m, nil
}

func render(t *testing.T, chart string, args ...string) *manifests {
	t.Helper()
	if out, err := runHelm(append([]string{"lint", "--strict", "--quiet", kubernetes, chart}, args...)...); err != nil {
		t.Fatal(err, out)
	}
	text, err := runHelm(append([]string{"template", "test", chart, "--namespace=tests", kubernetes}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	m, err := decode(text)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestDecode_IsStrict(t *testing.T) {
	for _, document := range []string{
		"apiVersion: v1\nkind: Service\nspec: {port: []}\n",
		"apiVersion: v1\nkind: Service\nspec: {type: ClusterIP, type: NodePort}\n",
		"apiVersion: v1\nkind: Service\nspec: {ports: [{port: many}]}\n",
		"apiVersion: v1\nkind: Secret\n",
		"spec: {}\n",
	} {
		if _, err := decode(document); err == nil {
			t.Errorf("decoded:\n%s", document)
		}
	}
}

// sets are the values that the chart is tried with; none is its own.
var sets = map[string]struct {
	args  []string
	kinds []string // beside Deployment, Service and ConfigMap
}{
	"default":    {nil, []string{"Job", "NetworkPolicy", "PodDisruptionBudget", "ServiceAccount"}},
	"sqlite":     {[]string{"--values=testdata/values/sqlite.yaml"}, []string{"NetworkPolicy", "PersistentVolumeClaim", "ServiceAccount"}},
	"plain":      {[]string{"--values=testdata/values/plain.yaml"}, nil},
	"everything": {[]string{"--values=testdata/values/everything.yaml"}, []string{"Job", "NetworkPolicy", "PodDisruptionBudget", "ServiceAccount"}},
}

func TestChart_RendersWhatIsAskedFor(t *testing.T) {
	for name, set := range sets {
		t.Run(name, func(t *testing.T) {
			m := render(t, "helm/latchkey", set.args...)
			want := append([]string{"ConfigMap", "Deployment", "Service"}, set.kinds...)
			slices.Sort(want)
			slices.Sort(m.kinds)
			if !slices.Equal(m.kinds, want) {
				t.Fatalf("kinds %v, want %v", m.kinds, want)
			}
			checkSettings(t, m.config.Data["latchkey.yaml"])
			for kind, pod := range m.pods {
				checkPod(t, kind, pod)
				for _, c := range pod.Spec.Containers {
					checkContainer(t, kind, pod, c, m)
				}
				if len(pod.Spec.InitContainers) > 0 {
					t.Errorf("%s: containers that nobody checked", kind)
				}
			}
			checkServed(t, m)
			if m.account != nil && (m.account.AutomountServiceAccountToken == nil || *m.account.AutomountServiceAccountToken) {
				t.Error("the service account's token is mounted")
			}
			if m.account != nil && m.account.Name != m.deployment.Spec.Template.Spec.ServiceAccountName {
				t.Errorf("the account is %s, the pods run as %s", m.account.Name, m.deployment.Spec.Template.Spec.ServiceAccountName)
			}
			if m.disruption != nil && !matches(m.disruption.Spec.Selector, m.deployment.Spec.Template.Labels) {
				t.Error("the disruption budget is of other pods")
			}
			if m.network != nil {
				for kind, pod := range m.pods {
					if !matches(&m.network.Spec.PodSelector, pod.Labels) {
						t.Errorf("the network policy does not hold for the pods of the %s", kind)
					}
				}
				if len(m.network.Spec.PolicyTypes) != 2 {
					t.Errorf("policy types %v", m.network.Spec.PolicyTypes)
				}
			}
			if m.job != nil {
				if !strings.Contains(m.annotations["helm.sh/hook"], "pre-upgrade") {
					t.Errorf("the job that migrates is no hook: %v", m.annotations)
				}
				if m.job.Spec.Template.Spec.ServiceAccountName != "" {
					t.Error("the job needs an account that is made after it")
				}
				if !slices.Contains(m.deployment.Spec.Template.Spec.Containers[0].Args, "--no-migrate") {
					t.Error("the control planes migrate, though a job does")
				}
				if matches(m.deployment.Spec.Selector, m.job.Spec.Template.Labels) || labelsMatch(m.service.Spec.Selector, m.job.Spec.Template.Labels) {
					t.Error("the job's pod is taken for a control plane")
				}
			}
			if m.claim != nil && (*m.deployment.Spec.Replicas != 1 || m.deployment.Spec.Strategy.Type != appsv1.RecreateDeploymentStrategyType) {
				t.Error("two processes could meet on one volume")
			}
		})
	}
}

// checkSettings has the program read its configuration file.
func checkSettings(t *testing.T, text string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "latchkey.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(latchkey, "--config", path, "config", "print").CombinedOutput(); err != nil {
		t.Errorf("the program refuses the configuration: %v\n%s\n%s", err, out, text)
	}
}

func matches(selector *metav1.LabelSelector, labels map[string]string) bool {
	return len(selector.MatchExpressions) == 0 && labelsMatch(selector.MatchLabels, labels)
}

func labelsMatch(want, labels map[string]string) bool {
	for name, value := range want {
		if labels[name] != value {
			return false
		}
	}
	return len(want) > 0
}

// checkPod holds a pod to what the restricted profile of the Pod Security
// Standards asks for, and to a little more.
func checkPod(t *testing.T, where string, pod corev1.PodTemplateSpec) {
	t.Helper()
	if token := pod.Spec.AutomountServiceAccountToken; token == nil || *token {
		t.Errorf("%s: the service account's token is mounted", where)
	}
	if pod.Spec.HostNetwork || pod.Spec.HostPID || pod.Spec.HostIPC {
		t.Errorf("%s: shares the node's network or processes", where)
	}
	security := pod.Spec.SecurityContext
	if security == nil || security.RunAsNonRoot == nil || !*security.RunAsNonRoot || security.SeccompProfile == nil || security.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
		t.Errorf("%s: security context %+v", where, security)
	}
	for _, v := range pod.Spec.Volumes {
		if v.HostPath != nil {
			t.Errorf("%s: the volume %s is the node's", where, v.Name)
		}
	}
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		s := c.SecurityContext
		if s == nil || s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation || s.ReadOnlyRootFilesystem == nil || !*s.ReadOnlyRootFilesystem ||
			s.Capabilities == nil || !slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}) || len(s.Capabilities.Add) > 0 || s.Privileged != nil && *s.Privileged {
			t.Errorf("%s %s: security context %+v", where, c.Name, s)
		}
		if c.Resources.Requests.Cpu().IsZero() || c.Resources.Requests.Memory().IsZero() || c.Resources.Limits.Memory().IsZero() {
			t.Errorf("%s %s: resources %+v", where, c.Name, c.Resources)
		}
		if !strings.Contains(c.Image, ":") || strings.HasSuffix(c.Image, ":latest") {
			t.Errorf("%s %s: image %s", where, c.Name, c.Image)
		}
		for _, m := range c.VolumeMounts {
			if !slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool { return v.Name == m.Name }) {
				t.Errorf("%s %s: there is no volume %s", where, c.Name, m.Name)
			}
		}
	}
	for _, v := range pod.Spec.Volumes {
		if !slices.ContainsFunc(slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers), func(c corev1.Container) bool {
			return slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.Name == v.Name })
		}) {
			t.Errorf("%s: nobody mounts the volume %s", where, v.Name)
		}
	}
}

// checkContainer holds a container of the program to the program, and its
// secrets to their files. m is nil for a sidecar.
func checkContainer(t *testing.T, where string, pod corev1.PodTemplateSpec, c corev1.Container, m *manifests) {
	t.Helper()
	if user := c.SecurityContext.RunAsUser; (user == nil || *user != 65532) && (pod.Spec.SecurityContext.RunAsUser == nil || *pod.Spec.SecurityContext.RunAsUser != 65532) {
		t.Errorf("%s: does not run as the image's user", where)
	}
	environment := map[string]string{}
	var files []string
	for _, e := range c.Env {
		if _, doubled := environment[e.Name]; doubled || e.ValueFrom != nil {
			t.Errorf("%s: %s stands twice, or comes from elsewhere", where, e.Name)
		}
		environment[e.Name] = e.Value
		files = append(files, e.Value)
		if found := findSecret(e.Name, e.Value); found != "" {
			t.Errorf("%s: %s", where, found)
		}
	}
	if len(c.EnvFrom) > 0 || len(c.Command) > 0 {
		t.Errorf("%s: environment from elsewhere, or a command in place of the image's", where)
	}
	var args []string
	for _, arg := range c.Args {
		name, value, _ := strings.Cut(strings.TrimPrefix(arg, "--"), "=")
		if found := findSecret(name, value); found != "" && !strings.HasPrefix(value, "/") {
			t.Errorf("%s: --%s", where, found)
		}
		files = append(files, value)
		if name != "config" { // a flag of every command
			args = append(args, arg)
		}
	}
	checkCommand(t, where, args, environment)

	// Each file that is named is there, and each that is there is named.
	made := map[string]bool{}
	for _, v := range pod.Spec.Volumes {
		for _, mount := range c.VolumeMounts {
			if mount.Name != v.Name {
				continue
			}
			items := func(list []corev1.KeyToPath) {
				for _, item := range list {
					made[mount.MountPath+"/"+item.Path] = false
				}
			}
			switch {
			case v.Projected != nil:
				for _, source := range v.Projected.Sources {
					items(source.Secret.Items)
				}
			case v.Secret != nil && v.Secret.Items != nil:
				items(v.Secret.Items)
			case v.Secret != nil: // of type kubernetes.io/tls
				made[mount.MountPath+"/tls.crt"], made[mount.MountPath+"/tls.key"] = false, false
				if slices.Contains(files, mount.MountPath+"/ca.crt") {
					made[mount.MountPath+"/ca.crt"] = false
				}
			case v.ConfigMap != nil:
				if m != nil {
					for name := range m.config.Data {
						made[mount.MountPath+"/"+name] = false
					}
				} else {
					made[mount.MountPath+"/routes.yaml"] = false
				}
			case v.EmptyDir == nil && v.PersistentVolumeClaim == nil:
				t.Errorf("%s: a volume that nobody checked: %s", where, v.Name)
			}
			if writable := v.EmptyDir != nil || v.PersistentVolumeClaim != nil; mount.ReadOnly == writable {
				t.Errorf("%s: the volume %s is mounted read-only: %t", where, v.Name, mount.ReadOnly)
			}
		}
	}
	for _, file := range files {
		if strings.HasPrefix(file, "/run/") && !strings.HasSuffix(file, ".sock") || strings.HasPrefix(file, "/etc/") {
			if _, ok := made[file]; !ok {
				t.Errorf("%s: there is no file %s in %v", where, file, made)
			}
			made[file] = true
		}
	}
	for file, named := range made {
		if !named {
			t.Errorf("%s: nothing names the file %s", where, file)
		}
	}
}

// checkServed holds the service, the probes and the network policy to the ports
// that the container listens on.
func checkServed(t *testing.T, m *manifests) {
	t.Helper()
	c := m.deployment.Spec.Template.Spec.Containers[0]
	ports := map[string]int32{}
	for _, p := range c.Ports {
		ports[p.Name] = p.ContainerPort
	}
	for flag, port := range map[string]string{"--listen=": "api", "--private-listen=": "private"} {
		if !slices.Contains(c.Args, fmt.Sprintf("%s0.0.0.0:%d", flag, ports[port])) {
			t.Errorf("the program does not listen on the port %s", port)
		}
	}
	if !labelsMatch(m.service.Spec.Selector, m.deployment.Spec.Template.Labels) || !matches(m.deployment.Spec.Selector, m.deployment.Spec.Template.Labels) {
		t.Error("the selectors are of other pods")
	}
	if p := m.service.Spec.Ports; len(p) != 1 || p[0].TargetPort != intstr.FromString("api") {
		t.Errorf("the service leads to %+v, not to the API alone", p)
	}
	for path, probe := range map[string]*corev1.Probe{"/health/live": c.LivenessProbe, "/health/ready": c.ReadinessProbe} {
		if probe == nil || probe.HTTPGet == nil || probe.HTTPGet.Path != path || probe.HTTPGet.Port != intstr.FromString("private") {
			t.Errorf("probe of %s: %+v", path, probe)
		}
	}
	if c.StartupProbe == nil {
		t.Error("no startup probe: a slow start would be ended")
	}
	tls := slices.Contains(c.Args, "--tls-cert=/run/tls/tls.crt")
	if plain := slices.Contains(c.Args, "--insecure-listen"); plain == tls {
		t.Errorf("TLS %t, plain %t", tls, plain)
	}
	if scheme := *m.service.Spec.Ports[0].AppProtocol; (scheme == "https") != tls {
		t.Errorf("the service says %s", scheme)
	}
}

// What the schema must refuse, and the word by which it says what is wrong.
func TestChart_RefusesValues(t *testing.T) {
	for name, c := range map[string]struct{ values, says string }{
		"an unknown name":                       {`{replica: 3}`, "replica"},
		"an unknown name below":                 {`{image: {repo: x}}`, "repo"},
		"an unknown name in a secret":           {`{database: {secret: {name: x, key: y, value: "postgres://u:p@h/d"}}}`, "value"},
		"a password in place of a secret":       {`{database: {secret: "postgres://u:p@h/d"}}`, "database"},
		"no secret for the database":            {`{database: {secret: null}}`, "secret"},
		"several processes on one SQLite file":  {`{database: {type: sqlite}, replicas: 2}`, "replicas"},
		"another database":                      {`{database: {type: mysql}}`, "type"},
		"neither TLS nor the wish for none":     {`{tls: {secretName: ""}}`, "tls"},
		"client certificates without TLS":       {`{tls: {insecure: true, clientCA: true}}`, "tls"},
		"no replicas":                           {`{replicas: 0}`, "replicas"},
		"replicas as text":                      {`{replicas: "2"}`, "replicas"},
		"the latest image":                      {`{image: {tag: latest}}`, "tag"},
		"a digest that is none":                 {`{image: {digest: "sha256:12"}}`, "digest"},
		"a setting that the chart makes":        {`{config: {listen: "0.0.0.0:1"}}`, "listen"},
		"a password as a setting":               {`{config: {database: "postgres://u:p@h/d"}}`, "database"},
		"a flag's name as a setting":            {`{config: {max-staleness: 1s}}`, "max-staleness"},
		"the root key in the environment":       {`{env: {LATCHKEY_ROOT_KEY: lkr1_x}}`, "LATCHKEY_ROOT_KEY"},
		"a disruption budget that stops drains": {`{podDisruptionBudget: {maxUnavailable: 0}}`, "maxUnavailable"},
		"a peer that is everybody by mistake":   {`{networkPolicy: {clients: [{}]}}`, "clients"},
		"a misspelt peer":                       {`{networkPolicy: {clients: [{podselector: {}}]}}`, "podselector"},
		"a port beyond ports":                   {`{service: {port: 65536}}`, "port"},
		"labels that choose the pods":           {`{podLabels: {app.kubernetes.io/name: x}}`, "app.kubernetes.io"},
		"a spread of other pods":                {`{topologySpreadConstraints: [{maxSkew: 1, topologyKey: x, whenUnsatisfiable: DoNotSchedule, labelSelector: {}}]}`, "topologySpreadConstraints"},
		"memory in no unit":                     {`{resources: {limits: {memory: lots}}}`, "memory"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "values.yaml")
			if err := os.WriteFile(path, []byte(c.values), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := runHelm("template", "test", "helm/latchkey", kubernetes, "--values", path)
			if err == nil || !strings.Contains(err.Error(), "schema") || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%s: %v", c.values, err)
			}
		})
	}
}

// The schema speaks of every value, and of none that is not there.
func TestChart_SchemaAndValuesNameTheSame(t *testing.T) {
	var schema struct{ Properties map[string]json.RawMessage }
	read(t, "helm/latchkey/values.schema.json", &schema)
	var values map[string]any
	read(t, "helm/latchkey/values.yaml", &values)
	delete(schema.Properties, "global") // helm's own
	for name := range schema.Properties {
		if _, ok := values[name]; !ok {
			t.Errorf("values.yaml does not tell of %s", name)
		}
	}
	if len(schema.Properties) != len(values) {
		t.Errorf("%d values, %d in the schema", len(values), len(schema.Properties))
	}
}

func read(t *testing.T, path string, into any) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err == nil {
		err = yaml.Unmarshal(text, into)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// exampleApp brings the library into a copy of the example, as a chart that
// depends on it does.
func exampleApp(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("helm")); err != nil {
		t.Fatal(err)
	}
	app := filepath.Join(dir, "example-app")
	if _, err := runHelm("dependency", "build", app); err != nil {
		t.Fatal(err)
	}
	return app
}

func TestSidecar_IsPutIntoAnotherChartsPods(t *testing.T) {
	app := exampleApp(t)
	for name, values := range map[string]string{
		"default": `{}`,
		"least":   `{sidecar: {redis: false, pepper: false}}`,
		"all": `{sidecar: {routes: example-routes, port: 5539, metrics: true, trust: true, maxStaleness: 10s, maxClockSkew: 1s, insecureControl: true,
			control: "http://latchkey:5539", verificationKeys: [one, two], resources: {requests: {cpu: 1, memory: 1Gi}, limits: {memory: 1Gi}}}}`,
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "values.yaml")
			if err := os.WriteFile(path, []byte(values), 0o600); err != nil {
				t.Fatal(err)
			}
			m := render(t, app, "--values="+path)
			pod := m.deployment.Spec.Template
			checkPod(t, "example", pod)
			if len(pod.Spec.InitContainers) != 1 {
				t.Fatalf("%d sidecars", len(pod.Spec.InitContainers))
			}
			c := pod.Spec.InitContainers[0]
			if c.RestartPolicy == nil || *c.RestartPolicy != corev1.ContainerRestartPolicyAlways {
				t.Error("the sidecar would be waited for until it ends")
			}
			checkContainer(t, "sidecar", pod, c, nil)
			for _, probe := range []*corev1.Probe{c.StartupProbe, c.LivenessProbe, c.ReadinessProbe} {
				if probe == nil || probe.Exec == nil || probe.Exec.Command[0] != "/latchkey" {
					t.Fatalf("probe %+v: the image has no shell", probe)
				}
				checkCommand(t, "probe", probe.Exec.Command[1:], nil)
			}
			for _, mount := range pod.Spec.Containers[0].VolumeMounts {
				if mount.Name == "latchkey-secrets" || mount.Name == "latchkey-data" {
					t.Errorf("the application sees %s", mount.Name)
				}
			}
		})
	}
}

func TestSidecar_RefusesArguments(t *testing.T) {
	app := exampleApp(t)
	for _, c := range []struct{ set, says string }{
		{"sidecar.contrl=x", `there is no argument "contrl"`},
		{"sidecar.key=lk1_live_x", `there is no argument "key"`},
		{"sidecar.control=http://latchkey:5539", "plain text"},
		{"sidecar.control=", "control is required"},
		{"sidecar.secret=", "secret is required"},
		{"sidecar.image=", "image is required"},
	} {
		_, err := runHelm("template", "test", app, kubernetes, "--set", c.set)
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", c.set, err)
		}
	}
}
