#!/usr/bin/env bash
# What a person with one CUDA card runs, a quarter of an hour at a time: CUDA's tests, the benchmarks, then the paper's
# recipes, the most telling first. Each call goes on where the last one ended.
#
#   benchmarks/gpu.sh            on a card
#   benchmarks/gpu.sh --smoke    a trial of every line on a CPU: tiny sizes, random images, reports in runs/gpu-smoke
#
# The package must be installed with the extras dev and bench. Variables:
#   PYTHON    the interpreter (python)
#   MINUTES   after which nothing new begins (14); what runs then is ended and goes on the next time
#   OUTPUT    folder of what was measured (runs/gpu)
#   GTN_RESULTS    folder of the reports (docs/results)
#   MNIST, FASHION_MNIST, CIFAR10    data sets of the hub, or local folders in its layout
set -uo pipefail
cd "$(dirname "$0")/.."

smoke=false
case "${1:-}" in
    "") ;;
    --smoke) smoke=true ;;
    *) echo "usage: benchmarks/gpu.sh [--smoke]" >&2; exit 2 ;;
esac

python=${PYTHON:-python}
deadline=$((SECONDS + 60 * ${MINUTES:-14}))
failed=()
unfinished=()
export WANDB_MODE=${WANDB_MODE:-offline}

if $smoke; then
    output=${OUTPUT:-runs/gpu-smoke}
    export GTN_RESULTS=$output/results CUDA_VISIBLE_DEVICES=
    engine=(--device cpu --small --repeats 1 --threads 1 --cases "GTNMnistNet, sgd, T = 32" "GPT-2 124M, adam, T = 16")
    telling=(remat higher)
    others=(reverse TorchOpt)
    whole=(--device cpu --mode remat --steps 2 --batch-size 10 --repeats 1)
    loops=(--device cpu --width 4 --size 16 --steps 12 --levels 0 1 2 --offload none disk)
    tiny=(--trainer.accelerator=cpu --trainer.max_steps=2 --trainer.val_check_interval=2 --trainer.log_every_n_steps=1
        --model.inner_loop.steps=2 --model.inner_loop.mode=remat --model.curriculum.init_args.batch_size=20
        --model.evaluation.learners=1 --data.init_args.batch_size=20 --data.init_args.val_size=100)
else
    output=${OUTPUT:-runs/gpu}
    "$python" -c 'import torch; raise SystemExit(not torch.cuda.is_available())' || {
        echo "torch sees no CUDA device: on a CPU, only benchmarks/gpu.sh --smoke works" >&2
        exit 2
    }
    engine=(--device cuda --repeats 5)
    telling=(compiled linearized higher)
    others=("compiled, in segments" TorchOpt remat mixed reverse)
    whole=(--device cuda --cases mnist cifar10)
    loops=(--device cuda --width 128 --batch-size 100 --mode compiled --steps 2000 --levels 2 1 3 0)
    tiny=()
fi
mkdir -p "$output"

# step NAME SECONDS COMMAND...: run a command for at most so many seconds, unless it has been finished.
step() {
    local name=$1 limit=$2 left=$((deadline - SECONDS)) code=0
    shift 2
    if [ -e "$output/$name.done" ]; then
        echo "== $name: done before"
        return
    fi
    if [ "$left" -lt 20 ]; then
        unfinished+=("$name")
        return
    fi
    [ "$limit" -le "$left" ] || limit=$left
    echo "== $name: at most $limit seconds, log in $output/$name.log"
    timeout --signal=TERM --kill-after=60 "$limit" "$@" >> "$output/$name.log" 2>&1 || code=$?
    case $code in
        0) touch "$output/$name.done" ;;
        124 | 137 | 143) unfinished+=("$name") ;;
        *) failed+=("$name"); tail -n 3 "$output/$name.log" ;;
    esac
}

# recipe NAME SECONDS DATA: meta-train by a packaged recipe, or go on with its last checkpoint, then test the teacher.
recipe() {
    local name=$1 limit=$2 data=$3 go_on=() teacher
    if compgen -G "$output/$name/*/checkpoints/last.ckpt" > /dev/null; then go_on=(--ckpt_path last); fi
    step "fit-$name" "$limit" "$python" -m gtn_lightning fit --config "$name" --data.init_args.path="$data" \
        --trainer.default_root_dir="$output/$name" ${tiny[@]+"${tiny[@]}"} ${go_on[@]+"${go_on[@]}"}
    teacher=$(compgen -G "$output/$name/*/teacher.safetensors" | sort | tail -n 1)
    if [ -e "$output/fit-$name.done" ] && [ -n "$teacher" ]; then
        step "test-$name" 120 "$python" -m gtn_lightning test --teacher "$teacher"
    fi
}

# The data of a recipe: the given place, in a trial random images of the same size.
data() {
    if $smoke; then
        [ -d "$output/data/$1" ] || "$python" -m benchmarks.random_images "$output/data/$1" --size "$3" --channels "$4" \
            >> "$output/data.log" 2>&1
        echo "$output/data/$1"
    else
        echo "$2"
    fi
}

step tests 240 "$python" -m pytest -q tests/meta_training/test_captured.py tests/inner_loop tests/benchmarks \
    -k "cuda or gpt2"
step meta-step 180 "$python" -m benchmarks.meta_step "${whole[@]}"
step engine-telling 360 "$python" -m benchmarks.engine "${engine[@]}" --engines "${telling[@]}" --output "$output/engine"
step long-loops 240 "$python" -m benchmarks.long_loops "${loops[@]}" --output "$output/long_loops"
recipe mnist 600 "$(data mnist "${MNIST:-ylecun/mnist}" 28 1)"
step engine-others 600 "$python" -m benchmarks.engine "${engine[@]}" --engines "${others[@]}" --output "$output/engine"
recipe cifar10 800 "$(data cifar10 "${CIFAR10:-uoft-cs/cifar10}" 32 3)"
recipe fashion_mnist 800 "$(data fashion_mnist "${FASHION_MNIST:-zalando-datasets/fashion_mnist}" 28 1)"

if compgen -G "$output/*/*/metrics.csv" > /dev/null; then
    "$python" -m benchmarks.paper "$output"/{mnist,cifar10,fashion_mnist} || failed+=(paper)
fi
[ ${#unfinished[@]} -eq 0 ] || echo "unfinished, call benchmarks/gpu.sh again: ${unfinished[*]}"
[ ${#failed[@]} -eq 0 ] || echo "failed, see the logs in $output: ${failed[*]}"
[ $((${#unfinished[@]} + ${#failed[@]})) -eq 0 ]
