#!/usr/bin/env bash
# The paper from nothing to its table (arXiv 2605.28791): past rollouts, skill banks, every method at every size with the
# settings in configs/, evaluation as published, means over the sets. OPD (arXiv 2604.13016) runs beside it.
#
#   scripts/reproduce.sh                                   everything; days on eight GPUs, none of it run by us yet
#   SIZES=1.7b METHODS="base sgsd" scripts/reproduce.sh    a part
#   REPRODUCE=arena scripts/reproduce.sh                   the same stages on the model that comes along: minutes, no GPU
#   DRY_RUN=1 scripts/reproduce.sh                         the commands, without running them
#
# What lies under $OUT is not made again: finished stages are skipped, a run that was ended goes on from its newest
# checkpoint, an evaluation from its last finished batch; drawing rollouts begins anew.
#
# TRAIN="torchrun --nproc_per_node 4 -m sgsd train" trains on several GPUs (published: 4, for OPD 8); on fewer, raise
# train.gradient_accumulation_steps. MINER="--miner model --endpoint http://HOST:PORT/v1 --model NAME" has a language
# model write the banks, as published; without it they are mined by contrast, which needs none.
set -euo pipefail
cd "$(dirname "$0")/.."

read -ra SGSD <<<"${SGSD:-sgsd}"
read -ra TRAIN <<<"${TRAIN:-${SGSD[*]} train}"
read -ra MINER <<<"${MINER:-}"
METHODS=${METHODS:-base base+skill sgsd grpo grpo+skill opsd opsd+skill opd cold-start+opd}

if [[ ${REPRODUCE:-paper} == arena ]]; then
    OUT=${OUT:-runs/reproduce-arena} SIZES=arena
    DATA=arena:easy
    PAST=(--limit 120 --n 8 --max-new-tokens 24 --batch-size 256)
    EMBEDDER=()
    TEACHING=(--limit 120 --n 2 --max-new-tokens 24 --batch-size 256)
    DRAW=()
    MEASURE=(--data arena:easy --data arena:medium --limit 100 -k 2 --max-new-tokens 40 --batch-size 256)
    UPDATE=2
else
    OUT=${OUT:-runs/reproduce} SIZES=${SIZES:-1.7b 4b 8b}
    DATA=BytedTsinghua-SIA/DAPO-Math-17k
    PAST=(--limit 256 --n 4 --max-new-tokens 1024 --temperature 1.1 --top-p 0.95 --top-k 20)
    EMBEDDER=(--embedder Qwen/Qwen3-Embedding-0.6B)
    TEACHING=(--limit 4096 --n 4 --max-new-tokens 7168)
    DRAW=(--engine vllm --gpu-memory-utilization 0.9)
    MEASURE=(--paper --data AIME24 --data AIME25 --data HMMT25)
    UPDATE=25
fi

# The four kinds of stage. Each is skipped when what it makes is there.

run() {
    if [[ -n ${DRY_RUN:-} ]]; then
        printf '%q ' "$@" && echo
    else
        echo "== $*" >&2
        "$@" >&2
    fi
}

wanted() { [[ " $METHODS " == *" $1 "* ]]; }

draw() { # FILE MODEL [OPTION]...: verified attempts at the training problems
    [[ -f $1 ]] || run "${SGSD[@]}" rollout --model "$2" --data "$DATA" --out "$1" "${DRAW[@]}" "${@:3}"
}

build() { # BANK ROLLOUTS
    [[ -f $1.built ]] && return
    run "${SGSD[@]}" bank build --rollouts "$2" --bank "$1" "${EMBEDDER[@]}" "${MINER[@]}"
    run touch "$1.built"
}

begun() { compgen -G "$OUT/$1/checkpoint-*" >/dev/null; }

train() { # NAME CONFIG [--set KEY=VALUE]...: the student in $OUT/NAME/student
    local resume=()
    [[ -d $OUT/$1/student ]] && return
    if begun "$1"; then resume=(--resume); elif [[ -e $OUT/$1 ]]; then run rm -r "$OUT/$1"; fi
    run "${TRAIN[@]}" "${@:2}" --set "output_dir=$OUT/$1" "${resume[@]}"
}

measure() { # NAME MODEL [OPTION]...: $OUT/eval/NAME.json
    local result=$OUT/eval/$1.json
    [[ -f $result ]] || run "${SGSD[@]}" eval --model "$2" "${MEASURE[@]}" "${DRAW[@]}" --out "$result" "${@:3}"
}

# What differs between a size of Qwen3 and the arena.

student_of() { if [[ $1 == arena ]]; then echo arena; else echo "Qwen/Qwen3-${1^^}"; fi; }

settings() { # SIZE METHOD: into $given, the configuration and what is set over it
    if [[ $1 == arena ]]; then
        given=(configs/arena.yaml --set "method=$2" --set train.max_steps=4 --set train.save_every=2)
        given+=(--set eval.every_steps=0)
        if [[ $2 == opd ]]; then given+=(--set "opd.teacher=$OUT/arena/teacher/student" --set opd.dtype=float32); fi
    else
        case $1-$2 in
            *-sgsd) given=("configs/qwen3-$1-dapo.yaml") ;;
            *-sft) given=("configs/qwen3-$1-cold-start.yaml") ;;
            4b-opd) given=(configs/qwen3-4b-opd-weak-teacher.yaml) ;; # does a weaker model have something to teach?
            *) given=("configs/qwen3-$1-$2.yaml") ;;
        esac
    fi
}

train_and_measure() { # SIZE NAME METHOD [--set KEY=VALUE]...
    wanted "$2" || return 0
    settings "$1" "$3"
    train "$1/$2" "${given[@]}" "${@:4}"
    measure "$1/$2" "$OUT/$1/$2/student"
}

for size in $SIZES; do
    student=$(student_of "$size") past=$OUT/$size/past.jsonl bank=$OUT/$size/bank

    # 1. The bank: the student's own attempts at 256 problems, contrasted and merged.
    draw "$past" "$student" "${PAST[@]}"
    build "$bank" "$past"

    # 2. The student as it is, with plain prompts and with skills in them.
    if wanted base; then measure "$size/base" "$student"; fi
    if wanted base+skill; then measure "$size/base+skill" "$student" --bank "$bank"; fi

    # 3. SGSD, whose bank is maintained while it teaches: a copy, for the other methods keep the first one.
    if wanted sgsd && ! begun "$size/sgsd" && [[ ! -d $OUT/$size/sgsd/student ]]; then
        run rm -rf "$OUT/$size/sgsd-bank"
        run cp -r "$bank" "$OUT/$size/sgsd-bank"
    fi
    train_and_measure "$size" sgsd sgsd --set "bank.path=$OUT/$size/sgsd-bank" --set "maintain.every_steps=$UPDATE"

    # 4. The baselines, and these with skills in the rollout prompt.
    for method in grpo opsd; do
        train_and_measure "$size" "$method" "$method"
        train_and_measure "$size" "$method+skill" "$method" --set skills_in_prompt=true --set "bank.path=$bank"
    done

    # 5. OPD from another model, straight and after a cold start on problems that the teacher is at home in.
    if [[ $size == 8b ]]; then continue; fi # no pairing with a larger sibling has a configuration here
    if [[ $size == arena ]] && { wanted opd || wanted cold-start+opd; }; then
        settings arena sft # the arena has no second model: its teacher learned the reference solutions
        train arena/teacher "${given[@]}" --set train.max_steps=20
    fi
    train_and_measure "$size" opd opd
    if [[ $size != 4b ]] && wanted cold-start+opd; then # nobody starts from a weaker teacher
        teacher=Qwen/Qwen3-4B attempts=$OUT/$size/teacher.jsonl cold=$size/cold-start
        if [[ $size == arena ]]; then teacher=$OUT/arena/teacher/student; fi
        draw "$attempts" "$teacher" "${TEACHING[@]}"
        settings "$size" sft
        train "$cold" "${given[@]}" --set "sft.rollouts=$attempts"
        train_and_measure "$size" cold-start+opd opd --set "model.name_or_path=$OUT/$cold/student" \
            --set data.select=teacher_aligned --set "data.aligned_with=$attempts"
    fi
done

# 6. The table.
[[ -n ${DRY_RUN:-} ]] || "${PYTHON:-python3}" scripts/reproduce_table.py "$OUT/eval" | tee "$OUT/table.md"
