/**
 * Self-signed certificates for tests, written as DER (X.509, RFC 5280).
 *
 * @module
 */

/** A certificate with its key, both in PEM. */
export interface Certificate {
  /** The certificate. */
  readonly certificate: string;
  /** Its private key. */
  readonly key: string;
}

const ECDSA_SHA256 = sequence(objectId(0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02));
const COMMON_NAME = objectId(0x55, 0x04, 0x03);
const BASIC_CONSTRAINTS = objectId(0x55, 0x1d, 0x13);
const SUBJECT_ALT_NAME = objectId(0x55, 0x1d, 0x11);
const TRUE = der(0x01, Uint8Array.of(0xff));

/** Makes a certificate (P-256) for IPv4 addresses, good from yesterday to tomorrow. */
export async function makeCertificate(addresses: readonly string[] = ["127.0.0.1"]): Promise<Certificate> {
  const algorithm = { name: "ECDSA", namedCurve: "P-256" };
  const { publicKey, privateKey } = await crypto.subtle.generateKey(algorithm, true, ["sign", "verify"]);
  const name = sequence(der(0x31, sequence(COMMON_NAME, der(0x0c, new TextEncoder().encode("mst test")))));
  const names = addresses.map((address) => der(0x87, Uint8Array.from(address.split(".").map(Number))));
  const extensions = [
    // Not an authority: a certificate that may sign others is refused as that of a server.
    sequence(BASIC_CONSTRAINTS, TRUE, der(0x04, sequence())),
    sequence(SUBJECT_ALT_NAME, der(0x04, sequence(...names))),
  ];
  const content = sequence(
    der(0xa0, integer(Uint8Array.of(2))),
    integer(crypto.getRandomValues(new Uint8Array(8))),
    ECDSA_SHA256,
    name,
    sequence(utcTime(-1), utcTime(1)),
    name,
    new Uint8Array(await crypto.subtle.exportKey("spki", publicKey)),
    der(0xa3, sequence(...extensions)),
  );
  const raw = new Uint8Array(await crypto.subtle.sign({ name: "ECDSA", hash: "SHA-256" }, privateKey, content));
  const signature = sequence(integer(raw.slice(0, 32)), integer(raw.slice(32)));
  const certificate = sequence(content, ECDSA_SHA256, der(0x03, Uint8Array.of(0), signature));
  const key = new Uint8Array(await crypto.subtle.exportKey("pkcs8", privateKey));
  return { certificate: pem("CERTIFICATE", certificate), key: pem("PRIVATE KEY", key) };
}

/** Tag, length and content. */
function der(tag: number, ...parts: readonly Uint8Array[]): Uint8Array<ArrayBuffer> {
  const length = parts.reduce((sum, part) => sum + part.length, 0);
  const lengthBytes = length < 0x80 ? [length] : length < 0x100 ? [0x81, length] : [0x82, length >> 8, length & 0xff];
  return concatenate([Uint8Array.of(tag, ...lengthBytes), ...parts]);
}

function sequence(...parts: readonly Uint8Array[]): Uint8Array<ArrayBuffer> {
  return der(0x30, ...parts);
}

function objectId(...bytes: readonly number[]): Uint8Array<ArrayBuffer> {
  return der(0x06, Uint8Array.from(bytes));
}

/** A non-negative integer: as few bytes as it takes, the first bit 0. */
function integer(bytes: Uint8Array): Uint8Array<ArrayBuffer> {
  const start = bytes.findIndex((byte) => byte !== 0);
  const digits = start < 0 ? Uint8Array.of(0) : bytes.subarray(start);
  return der(0x02, digits[0] >= 0x80 ? Uint8Array.of(0, ...digits) : digits);
}

function utcTime(daysFromNow: number): Uint8Array<ArrayBuffer> {
  const time = new Date(Date.now() + daysFromNow * 86_400_000).toISOString();
  return der(0x17, new TextEncoder().encode(`${time.slice(2, 19).replace(/[-T:]/g, "")}Z`));
}

function concatenate(parts: readonly Uint8Array[]): Uint8Array<ArrayBuffer> {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let offset = 0;
  for (const part of parts) {
    whole.set(part, offset);
    offset += part.length;
  }
  return whole;
}

function pem(label: string, bytes: Uint8Array): string {
  const lines = btoa(String.fromCharCode(...bytes)).match(/.{1,64}/g)!;
  return `-----BEGIN ${label}-----\n${lines.join("\n")}\n-----END ${label}-----\n`;
}
