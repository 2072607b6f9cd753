// node submit.js FOLDER PROGRAM [ARGUMENT...]: runs a program in a copy of FOLDER, as `runyard run` does.
// No generated code and none of runyard's own: the contract's .proto files are all it needs.
const fs = require('fs');
const os = require('os');
const path = require('path');
const { randomUUID } = require('crypto');
const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');

const PROTO = process.env.RUNYARD_PROTO || path.join(__dirname, '..', '..', '..', 'proto');
const WORKSPACE = 'workspaces/default';
const PART_BYTES = 1 << 20;

function address() {
  if (process.env.RUNYARD_ADDRESS) return process.env.RUNYARD_ADDRESS;
  const data = process.env.XDG_DATA_HOME || path.join(os.homedir(), '.local', 'share');
  const home = process.env.RUNYARD_HOME || path.join(data, 'runyard', os.hostname());
  return 'unix:' + JSON.parse(fs.readFileSync(path.join(home, 'daemon.json'))).socket;
}

const files = ['snapshots', 'runs'].map((noun) => `runyardpb/v1/${noun}.proto`);
const options = { includeDirs: [PROTO], keepCase: true, defaults: true, longs: Number, enums: String, oneofs: true };
const api = grpc.loadPackageDefinition(loader.loadSync(files, options)).runyardpb.v1;
const connect = (Service) => new Service(address(), grpc.credentials.createInsecure());
const call = (client, method, request) =>
  new Promise((done, failed) => client[method](request, (error, answer) => (error ? failed(error) : done(answer))));

function* entries(folder, below = '') {
  for (const found of fs.readdirSync(path.join(folder, below), { withFileTypes: true })) {
    const name = below + found.name;
    const place = path.join(folder, name);
    if (found.isSymbolicLink()) yield { path: name, kind: 'KIND_LINK', data: Buffer.from(fs.readlinkSync(place)) };
    else if (found.isDirectory() && found.name !== '.git') yield* entries(folder, name + '/');
    else if (found.isFile()) {
      const data = fs.readFileSync(place);
      const { mode } = fs.statSync(place);
      for (let at = 0; at === 0 || at < data.length; at += PART_BYTES) {
        const has_more = at + PART_BYTES < data.length;
        yield { path: name, kind: 'KIND_FILE', mode, data: data.subarray(at, at + PART_BYTES), has_more };
      }
    }
  }
}

async function upload(folder) {
  let stream;
  const answered = new Promise((done, failed) => {
    stream = connect(api.SnapshotService).UploadTree((error, answer) => (error ? failed(error) : done(answer)));
  });
  const send = async () => {
    stream.write({ header: { parent: WORKSPACE } });
    for (const entry of entries(folder)) {
      if (!stream.write({ entries: [entry] })) await new Promise((ready) => stream.once('drain', ready));
    }
    stream.end();
  };
  await Promise.race([answered, send()]); // an error may be answered before all is sent
  return answered;
}

async function follow(client, name) {
  let run;
  for await (const event of client.FollowRun({ name })) {
    if (event.log) (event.log.stream === 'LOG_SOURCE_STDERR' ? process.stderr : process.stdout).write(event.log.data);
    if (event.run) run = event.run;
  }
  return run;
}

async function main([folder, ...argv]) {
  const { snapshot, left_out } = await upload(folder);
  for (const { path: name, rule } of left_out) console.error(`left out: ${name} (${rule})`);
  const runs = connect(api.RunService);
  const caller_environment = ['PATH', 'HOME', 'LANG'].filter((name) => name in process.env)
    .map((name) => ({ name: Buffer.from(name), value: Buffer.from(process.env[name]) }));
  const spec = { snapshot: snapshot.name, command: { argv: argv.map((text) => Buffer.from(text)) }, caller_environment };
  const parent = `${WORKSPACE}/experiments/node`;
  const { run } = await call(runs, 'CreateRun', { parent, spec, request_id: randomUUID() });
  const { state, end } = await follow(runs, run.name);
  console.error(`${run.name.split('/').pop()}: ${state}, ${end.message}`);
  return end.outcome;
}

main(process.argv.slice(2)).then((code) => process.exit(code), (error) => {
  console.error(`submit.js: ${error.details || error.message}`);
  process.exit(1);
});
