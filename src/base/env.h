// Every environment variable that wideep reads, in one table, with typed getters. Nothing else in
// the tree calls getenv, and nothing sets a variable.
#pragma once

#include <optional>
#include <span>
#include <string>

#include "base/status.h"

namespace wideep::env {

enum class Type { kInt, kText };

struct Variable {
  const char* name;
  Type type;
  const char* default_text;  // what unset means, for people
  const char* meaning;
};

// Set by Open MPI's mpirun for every process that it starts.
inline constexpr Variable kMpiSize{"OMPI_COMM_WORLD_SIZE", Type::kInt, "not under mpirun",
                                   "processes that mpirun started"};
inline constexpr Variable kMpiRank{"OMPI_COMM_WORLD_RANK", Type::kInt, "not under mpirun",
                                   "which of them this one is"};
inline constexpr Variable kMpiLocalSize{"OMPI_COMM_WORLD_LOCAL_SIZE", Type::kInt,
                                        "not under mpirun",
                                        "processes that mpirun started on this host"};
inline constexpr Variable kMpiLocalRank{"OMPI_COMM_WORLD_LOCAL_RANK", Type::kInt,
                                        "not under mpirun", "which of the host's this one is"};

// TensorRT-LLM's; engine/statistics_options.h says what they do.
inline constexpr Variable kStatisticPath{"EXPERT_STATISTIC_PATH", Type::kText, "no statistics",
                                         "folder that expert statistics are written to"};
inline constexpr Variable kStatisticIterRange{
    "EXPERT_STATISTIC_ITER_RANGE", Type::kText, "no statistics",
    "iterations START-STOP of which routed experts are counted, without STOP"};

// The table: all of the above.
std::span<const Variable> variables();

// The value of an integer variable; nothing where it is not set. kInvalidInput naming the variable
// and its text where that is no integer (of 32 bits, decimal).
Result<std::optional<int>> get_int(const Variable& variable);
// The value of a text variable, which may be empty; nothing where it is not set.
std::optional<std::string> get_text(const Variable& variable);

}  // namespace wideep::env
