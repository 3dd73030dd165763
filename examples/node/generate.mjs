// Writes a video of a portrait that speaks a WAV file (16 bits, one channel).
//
//   npm install
//   node generate.mjs HOST:PORT PROTOS PORTRAIT SPEECH.wav OUT.mp4
//
// PROTOS is the folder protos/ of this project.

import { createWriteStream, readFileSync } from "node:fs";
import { once } from "node:events";
import { randomUUID } from "node:crypto";
import grpc from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";

const PIECE_S = 0.5;
const CREDITS = 64;
const CREATE_TIMEOUT_MS = 60_000;
const [gateway, protos, portrait, speech, out] = process.argv.slice(2);

const definition = loadSync("live_avatar/v1/avatar_service.proto", { includeDirs: [protos], longs: Number });
const { AvatarService } = grpc.loadPackageDefinition(definition).live_avatar.v1;
const client = new AvatarService(gateway, grpc.credentials.createInsecure(), {
  "grpc.keepalive_time_ms": 5_000, // a frozen gateway is noticed
  "grpc.keepalive_timeout_ms": 5_000,
});

const { rateHz, samples } = readWav(readFileSync(speech));
const { sessionToken } = await call("CreateSession", {
  requestId: randomUUID(),
  referenceImage: readFileSync(portrait),
  config: {
    audio: { encoding: "ENCODING_PCM_S16LE", sampleRateHz: rateHz, channelCount: 1 },
    video: { encoding: "ENCODING_FMP4" },
  },
});
const movie = createWriteStream(out);
const stream = client.StreamAvatar();
let clientSequence = 0;
stream.on("data", ({ videoUnit }) => {
  if (videoUnit) {
    movie.write(videoUnit.data);
    send({ credit: { videoUnits: 1 } }); // there is room for one more
  }
});
const ended = once(stream, "end");
send({ open: { sessionToken, initialVideoCredits: CREDITS } });
const pieceBytes = 2 * Math.round(PIECE_S * rateHz);
for (let first = 0; first < samples.length; first += pieceBytes) {
  const written = send({ audioChunk: { data: samples.subarray(first, first + pieceBytes), sampleOffset: first / 2 } });
  if (!written) await once(stream, "drain"); // the server has enough for now
}
send({ finish: {} });
await ended; // rejects with the gateway's status where the session failed
stream.end();
movie.end();
await once(movie, "finish");
client.close();

function send(payload) {
  return stream.write({ clientSequence: ++clientSequence, ...payload });
}

function call(method, request) {
  return new Promise((resolve, reject) => {
    const deadline = Date.now() + CREATE_TIMEOUT_MS;
    client[method](request, { deadline }, (error, response) => (error ? reject(error) : resolve(response)));
  });
}

function readWav(file) {
  let rateHz = 0;
  for (let at = 12; at < file.length; at += 8 + file.readUInt32LE(at + 4) + (file.readUInt32LE(at + 4) % 2)) {
    const name = file.toString("latin1", at, at + 4);
    if (name === "fmt ") rateHz = file.readUInt32LE(at + 12);
    if (name === "data") return { rateHz, samples: file.subarray(at + 8, at + 8 + file.readUInt32LE(at + 4)) };
  }
  throw new Error(`${speech} has no samples`);
}
