// What a benchmark of an engine says: from the times of its requests to rates and percentiles, as a
// table and as JSON.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "base/json.h"
#include "engine/replica.h"

namespace wideep::cli {

// One request that was answered; times in seconds from its submission.
struct RequestRecord {
  int64_t input_tokens = 0;
  int64_t output_tokens = 0;
  double first_token = 0;
  double last_token = 0;
};

// Percentiles interpolate between the two nearest values.
struct Distribution {
  double average = 0;
  double p50 = 0;
  double p90 = 0;
  double p95 = 0;
  double p99 = 0;
  double minimum = 0;
  double maximum = 0;
};
Distribution distribution_of(std::vector<double> values);
OrderedJson distribution_json(const Distribution& values);

struct BenchSummary {
  int64_t requests = 0;
  int64_t input_tokens = 0;
  int64_t output_tokens = 0;
  double seconds = 0;
  double requests_per_second = 0;
  double output_tokens_per_second = 0;
  double total_tokens_per_second = 0;  // prompts too
  // Mean over requests of output tokens / latency: what one user sees.
  double output_tokens_per_second_and_user = 0;
  Distribution ttft_ms;     // time to first token
  Distribution tpot_ms;     // time per output token after the first; of answers of 2 tokens or more
  Distribution latency_ms;  // to the last token
  engine::RunStats engine;
};

BenchSummary summarize(std::span<const RequestRecord> records, double seconds,
                       const engine::RunStats& stats);

std::string report_text(const BenchSummary& summary);
OrderedJson report_json(const BenchSummary& summary);

// Processor, threads, memory, versions and the command line of this process.
OrderedJson run_environment();

}  // namespace wideep::cli
