import { assertEquals, assertStringIncludes } from "@std/assert";
import { type CommandFile, runCommand } from "../_support/processes.ts";

const GOLDEN = new URL("../golden/", import.meta.url).pathname;

const MEET = "--rendezvous=ws://127.0.0.1:9";
const MEET_TLS = "--rendezvous=wss://127.0.0.1:9";

/** Command lines that must be refused before any process starts, and what the refusal has to say. */
const REFUSED: readonly (readonly [file: CommandFile, args: string, says: string])[] = [
  ["main.ts", "--stratgey=ring", "there is no such flag, did you mean --strategy?"],
  ["main.ts", "--strategy=rings", "Cannot use --strategy=rings: it must be ring, "],
  ["main.ts", "--strategy=", "Cannot use --strategy without a value"],
  ["main.ts", "--strategy", "Cannot use --strategy without a value"],
  ["main.ts", "ring", "Cannot use ring: flags start with --"],
  ["main.ts", "-r 4", "Cannot use -r: there is no such flag"],
  ["main.ts", "--ranks=0", "it must be auto or a whole number from 1 to 128"],
  ["main.ts", "--ranks=-2", "it must be auto or a whole number from 1 to 128"],
  ["main.ts", "--ranks=1000", "it must be auto or a whole number from 1 to 128"],
  ["main.ts", "--ranks=two", "Cannot use --ranks=two"],
  ["main.ts", "--strategy=single --ranks=2", "it runs on 1 rank"],
  ["main.ts", "--strategy=single --placement=contiguous", "it leaves no choice"],
  ["main.ts", "--placement=random", "it must be zigzag or contiguous"],
  ["main.ts", "--device=cuda", "it must be auto, dawn, webgpu or reference"],
  ["main.ts", "--model=9b", "neither tiny, 125m, 1b, 8b nor a folder"],
  ["main.ts", "--model=/nonexistent", "nor a folder"],
  ["main.ts", `--model=${GOLDEN}`, "config.json"],
  ["main.ts", `--model=${GOLDEN}gemma2`, 'model_type "gemma2": it must be "llama"'],
  ["main.ts", `--model=${GOLDEN}mistral`, 'model_type "mistral": it must be "llama"'],
  ["main.ts", "--dim=100 --heads=3", "--dim must be a multiple of --heads"],
  ["main.ts", "--dim=60 --heads=4", "Cannot rotate a head dim of 15: it must be even"],
  ["main.ts", "--model=tiny --kv-heads=3", "heads must be a multiple of the kv heads"],
  ["main.ts", "--layers=0", "Cannot use --layers=0"],
  ["main.ts", "--vocab=100", "Cannot train on bytes with a vocabulary of 100: it must be 257 or more"],
  ["main.ts", "--seq=8k", "it must be a whole number of 1 or more, such as 1024"],
  ["main.ts", "--seq=0", "Cannot use --seq=0"],
  ["main.ts", "--seq=1.5", "Cannot use --seq=1.5"],
  ["main.ts", "--seq=3 --ranks=4", "Cannot split 3 tokens across 4 ranks"],
  ["main.ts", "--strategy=ulysses --seq=3 --ranks=4", "Cannot split 3 tokens across 4 ranks"],
  [
    "main.ts",
    "--strategy=ulysses --model=tiny --ranks=3",
    "Cannot split 4 heads across 3 ranks: heads must be a multiple of the ranks",
  ],
  ["main.ts", "--strategy=ulysses --model=tiny --heads=12 --dim=96 --kv-heads=6 --ranks=4", "Cannot split 6 kv heads"],
  ["main.ts", "--strategy=ulysses --placement=zigzag", "it leaves no choice"],
  ["main.ts", "--strategy=megatron --seq=3 --ranks=4", "Cannot split 3 tokens across 4 ranks"],
  ["main.ts", "--strategy=megatron --model=tiny --ranks=3", "Cannot split 4 heads across 3 ranks"],
  [
    "main.ts",
    "--strategy=megatron --model=tiny --ffn=3 --ranks=4",
    "Cannot split an MLP of width 3 across 4 ranks: every rank needs at least one column",
  ],
  [
    "main.ts",
    "--strategy=megatron --model=tiny --ranks=2 --shard=gradients",
    "Cannot shard gradients under megatron: its ranks hold parts of weights, gradients and moments already",
  ],
  ["main.ts", "--save-every=5", "Cannot use --save-every without --save: it has to know the folder"],
  ["main.ts", "--save=a --verify", "Cannot use --save with --verify: its runs have no single result"],
  ["main.ts", "--resume=a --compare", "Cannot use --resume with --compare: its runs start from the first step"],
  ["main.ts", "--save=/proc/a", "Cannot save a checkpoint to /proc/a: "],
  [
    "main.ts",
    `--save=${GOLDEN}llama3`,
    "it holds config.json and is no checkpoint, wanted an empty folder, a checkpoint",
  ],
  ["main.ts", "--resume=/nonexistent", "Cannot go on from /nonexistent: it has no readable trainer_state.json"],
  ["main.ts", `--resume=${GOLDEN}llama3`, "llama3: it has no readable trainer_state.json"],
  ["main.ts", "--ulysses=2", "Cannot use --ulysses=2 with --strategy=ring: its ranks have one axis"],
  ["main.ts", "--strategy=ulysses --ring=2", "Cannot use --ring=2 with --strategy=ulysses: its ranks have one axis"],
  [
    "main.ts",
    "--strategy=usp --ulysses=2 --ring=3 --ranks=4",
    "Cannot use --ulysses=2 and --ring=3 with --ranks=4: they make 6 ranks",
  ],
  [
    "main.ts",
    "--strategy=usp --ulysses=3 --ranks=4",
    "Cannot use --ulysses=3 with --ranks=4: the ranks must be a multiple of 3",
  ],
  [
    "main.ts",
    "--strategy=usp --ring=64 --ulysses=4",
    "Cannot use --ulysses=4 and --ring=64: they make 256 ranks, wanted 128 at most",
  ],
  [
    "main.ts",
    "--strategy=usp --model=tiny --ulysses=3 --ring=2",
    "Cannot split 4 heads across 3 ranks: heads must be a multiple of the ranks",
  ],
  ["main.ts", "--strategy=usp --seq=3 --ulysses=2 --ring=2", "Cannot split 3 tokens across 4 ranks"],
  ["main.ts", "--seq=2000000", "it has 1204998 tokens, at least 2000001 are needed"],
  ["main.ts", "--steps=2 --warmup=5", "at least one step must be measured"],
  ["main.ts", "--mini-sequence=none", "it must be auto, off or a whole number"],
  ["main.ts", "--recompute=everything", "it must be none, selective, except-attention or layer"],
  ["main.ts", "--lr=-1", "it must be a number of 0 or more"],
  ["main.ts", "--clip=big", "it must be a number of 0 or more"],
  ["main.ts", "--seed=-1", "a whole number from 0 to 4294967295"],
  ["main.ts", "--timeout=0", "Cannot use --timeout=0"],
  ["main.ts", "--data=/nonexistent.txt", "Cannot use --data=/nonexistent.txt"],
  ["main.ts", "--data=/", "Cannot use --data=/"],
  ["main.ts", "--json=/nonexistent/a.json", "Cannot use --json=/nonexistent/a.json"],
  ["main.ts", "--compare --verify", "Cannot use --compare with --verify"],
  ["main.ts", "--compare --mini-sequence=4", "Cannot use --mini-sequence with --compare"],
  ["main.ts", "--compare-strategies --longest", "Cannot use --compare-strategies with --longest"],
  ["main.ts", "--compare-strategies --strategy=usp", "Cannot use --strategy with --compare-strategies"],
  ["main.ts", "--longest", "Cannot use --longest without --memory-budget"],
  ["main.ts", "--longest --memory-budget=2GB", "it must be bytes, such as 512MiB or 2GiB"],
  ["main.ts", "--profile=yes", "--profile takes no value"],
  ["main.ts", "--rank=0", "Cannot use --rank without --rendezvous"],
  ["main.ts", "--bind=0.0.0.0", "Cannot use --bind without --rendezvous"],
  ["main.ts", "--certificate=a", "Cannot use --certificate without --rendezvous"],
  ["main.ts", "--rendezvous=localhost", "it must be ws://HOST:PORT or wss://HOST:PORT"],
  ["main.ts", "--rendezvous=ws://localhost", "it must be ws://HOST:PORT or wss://HOST:PORT"],
  ["main.ts", "--rendezvous=http://localhost:80", "it must be ws://HOST:PORT or wss://HOST:PORT"],
  ["main.ts", "--rendezvous=ws://localhost:65536", "it must be ws://HOST:PORT or wss://HOST:PORT"],
  ["main.ts", `${MEET} --rank=0`, "Cannot use --rendezvous without --ranks"],
  ["main.ts", `${MEET} --rank=0 --ranks=auto`, "Cannot use --rendezvous without --ranks"],
  ["main.ts", `${MEET} --ranks=4`, "Cannot use --rendezvous without --rank: say which of 0 to 3 to start here"],
  ["main.ts", `${MEET} --ranks=4 --rank=4`, "Cannot start rank 4 of --ranks=4: it must be 0 to 3"],
  ["main.ts", `${MEET} --ranks=4 --rank=2-4`, "Cannot start rank 4 of --ranks=4"],
  ["main.ts", `${MEET} --ranks=4 --rank=3-2`, "it must be a whole number from 0 to 127, or a range such as 2-3"],
  ["main.ts", `${MEET} --ranks=4 --rank=-1`, "it must be a whole number from 0 to 127, or a range such as 2-3"],
  ["main.ts", `${MEET} --ranks=4 --rank=0`, "MST_TOKEN or --token-file must hold the same secret on all of them"],
  ["main.ts", `${MEET} --ranks=4 --rank=0 --token-file=/nonexistent`, "Cannot use --token-file=/nonexistent"],
  ["main.ts", `${MEET} --ranks=4 --rank=0 --token-file=/dev/null`, "/dev/null must hold the same secret"],
  ["main.ts", `${MEET} --ranks=4 --rank=0 --compare`, "Cannot use --compare with --rendezvous"],
  ["main.ts", `${MEET} --ranks=4 --rank=0 --verify`, "Cannot use --verify with --rendezvous"],
  ["main.ts", `${MEET} --ranks=4 --rank=0 --key=a`, "encrypted links need --rendezvous=wss://HOST:PORT"],
  ["main.ts", `${MEET_TLS} --ranks=4 --rank=0`, "Cannot use wss:// without --certificate and --key"],
  ["main.ts", `${MEET_TLS} --ranks=4 --rank=0 --certificate=/x --key=/x`, "Cannot use --certificate=/x"],
  [
    "main.ts",
    `${MEET_TLS} --ranks=4 --rank=0 --certificate=/dev/null --key=/dev/null`,
    "Cannot use --certificate=/dev/null: it must hold a certificate in PEM",
  ],
  ["verify_main.ts", "", "name one or more of the golden format"],
  ["verify_main.ts", `${GOLDEN}llama3 --seq=4`, "Cannot use --seq=4: there is no such flag"],
  ["verify_main.ts", `${GOLDEN}llama3 --ranks=x`, "Cannot use --ranks=x"],
  ["verify_main.ts", "/nonexistent --ulysses=2", "its ranks have one axis"],
  [
    "verify_main.ts",
    `${GOLDEN}llama3 --strategy=usp --ulysses=2 --ring=3 --ranks=2`,
    "Cannot use --ulysses=2 and --ring=3 with --ranks=2: they make 6 ranks",
  ],
  ["verify_main.ts", "/nonexistent", "Cannot verify /nonexistent: TypeError: Cannot read /nonexistent/config.json"],
  ["verify_main.ts", `${GOLDEN}qwen2`, 'Cannot run a model with model_type "qwen2"'],
  ["verify_main.ts", `${GOLDEN}gemma2 ${GOLDEN}mistral`, 'Cannot run a model with model_type "mistral"'],
];

for (const [file, args, says] of REFUSED) {
  Deno.test(`${file} ${args.replaceAll(GOLDEN, "")} is refused before any process starts`, async () => {
    const words = args === "" ? [] : args.split(" ");
    const { code, stderr } = await runCommand(file, words, { denyProcesses: true });
    assertEquals(code, 2, stderr);
    assertStringIncludes(stderr, says);
    assertEquals(stderr.split("\n").filter((line) => line.startsWith("error: ")).length > 0, true, stderr);
    assertEquals(/^\s+at /m.test(stderr), false, `A refusal shows no stack: ${stderr}`);
  });
}
