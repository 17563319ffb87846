#include "cli/bench_report.h"

#include <fmt/format.h>
#include <sys/utsname.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <iterator>
#include <numeric>
#include <thread>

#include "base/device.h"
#include "base/text.h"

namespace wideep::cli {
namespace {

constexpr double kMilliseconds = 1e3;

double rate(int64_t count, double seconds) {
  return seconds > 0 ? static_cast<double>(count) / seconds : 0;
}

double percentile(const std::vector<double>& sorted, double share) {
  const double place = share * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<size_t>(place);
  const size_t above = std::min(below + 1, sorted.size() - 1);
  return std::lerp(sorted[below], sorted[above], place - static_cast<double>(below));
}

std::string distribution_line(const char* name, const Distribution& values) {
  return fmt::format("{:<24}{:>10.2f}{:>10.2f}{:>10.2f}{:>10.2f}{:>10.2f}{:>10.2f}\n", name,
                     values.average, values.p50, values.p90, values.p95, values.p99,
                     values.maximum);
}

// The rest of the first line that begins with `key` in a file of the system; "" without one.
std::string system_value(const char* path, std::string_view key) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with(key)) {
      return std::string(trim(std::string_view(line).substr(line.find(':') + 1)));
    }
  }
  return "";
}

std::string command_line() {
  std::ifstream file("/proc/self/cmdline", std::ios::binary);
  std::string line{std::istreambuf_iterator<char>(file), {}};
  if (line.ends_with('\0')) line.pop_back();
  std::ranges::replace(line, '\0', ' ');
  return line;
}

std::string kernel_release() {
  utsname names{};
  return uname(&names) == 0 ? fmt::format("{} {}", names.sysname, names.release) : "unknown";
}

}  // namespace

Distribution distribution_of(std::vector<double> values) {
  if (values.empty()) return {};
  std::ranges::sort(values);
  const double sum = std::accumulate(values.begin(), values.end(), 0.0);
  return {.average = sum / static_cast<double>(values.size()),
          .p50 = percentile(values, 0.50),
          .p90 = percentile(values, 0.90),
          .p95 = percentile(values, 0.95),
          .p99 = percentile(values, 0.99),
          .minimum = values.front(),
          .maximum = values.back()};
}

OrderedJson distribution_json(const Distribution& values) {
  return {{"average", values.average}, {"p50", values.p50}, {"p90", values.p90},
          {"p95", values.p95},         {"p99", values.p99}, {"minimum", values.minimum},
          {"maximum", values.maximum}};
}

BenchSummary summarize(std::span<const RequestRecord> records, double seconds,
                       const engine::RunStats& stats) {
  BenchSummary summary;
  summary.requests = static_cast<int64_t>(records.size());
  summary.seconds = seconds;
  summary.engine = stats;
  std::vector<double> ttft;
  std::vector<double> tpot;
  std::vector<double> latency;
  double user_rates = 0;
  for (const RequestRecord& record : records) {
    summary.input_tokens += record.input_tokens;
    summary.output_tokens += record.output_tokens;
    user_rates += rate(record.output_tokens, record.last_token);
    ttft.push_back(record.first_token * kMilliseconds);
    latency.push_back(record.last_token * kMilliseconds);
    if (record.output_tokens < 2) continue;
    tpot.push_back((record.last_token - record.first_token) * kMilliseconds /
                   static_cast<double>(record.output_tokens - 1));
  }
  summary.requests_per_second = rate(summary.requests, seconds);
  summary.output_tokens_per_second = rate(summary.output_tokens, seconds);
  summary.total_tokens_per_second = rate(summary.input_tokens + summary.output_tokens, seconds);
  if (!records.empty()) {
    summary.output_tokens_per_second_and_user = user_rates / static_cast<double>(records.size());
  }
  summary.ttft_ms = distribution_of(std::move(ttft));
  summary.tpot_ms = distribution_of(std::move(tpot));
  summary.latency_ms = distribution_of(std::move(latency));
  return summary;
}

std::string report_text(const BenchSummary& summary) {
  std::string text;
  const auto line = [&](const char* name, double value, const char* unit) {
    text += fmt::format("{:<24}{:>12.2f} {}\n", name, value, unit);
  };
  text +=
      fmt::format("{:<24}{:>12} in {:.2f} s ({} input and {} output tokens)\n", "requests",
                  summary.requests, summary.seconds, summary.input_tokens, summary.output_tokens);
  line("request throughput", summary.requests_per_second, "requests/s");
  line("output throughput", summary.output_tokens_per_second, "tokens/s");
  line("total throughput", summary.total_tokens_per_second, "tokens/s");
  line("output per user", summary.output_tokens_per_second_and_user, "tokens/s");
  text += fmt::format("\n{:<24}{:>10}{:>10}{:>10}{:>10}{:>10}{:>10}\n", "ms", "avg", "p50", "p90",
                      "p95", "p99", "max");
  text += distribution_line("time to first token", summary.ttft_ms);
  text += distribution_line("time per output token", summary.tpot_ms);
  text += distribution_line("latency", summary.latency_ms);
  const engine::RunStats& engine = summary.engine;
  text += fmt::format(
      "\n{} iterations, {} tokens computed, {} taken from the KV cache; {} preemptions, {} tokens "
      "computed again\n",
      engine.iterations, engine.computed_tokens, engine.cached_tokens, engine.preemptions,
      engine.recomputed_tokens);
  return text;
}

OrderedJson report_json(const BenchSummary& summary) {
  const engine::RunStats& engine = summary.engine;
  return {{"requests", summary.requests},
          {"input_tokens", summary.input_tokens},
          {"output_tokens", summary.output_tokens},
          {"seconds", summary.seconds},
          {"requests_per_second", summary.requests_per_second},
          {"output_tokens_per_second", summary.output_tokens_per_second},
          {"total_tokens_per_second", summary.total_tokens_per_second},
          {"output_tokens_per_second_and_user", summary.output_tokens_per_second_and_user},
          {"ttft_ms", distribution_json(summary.ttft_ms)},
          {"tpot_ms", distribution_json(summary.tpot_ms)},
          {"latency_ms", distribution_json(summary.latency_ms)},
          {"iterations", engine.iterations},
          {"computed_tokens", engine.computed_tokens},
          {"cached_tokens", engine.cached_tokens},
          {"preemptions", engine.preemptions},
          {"recomputed_tokens", engine.recomputed_tokens}};
}

OrderedJson run_environment() {
  const DeviceReport report = device_report();
  OrderedJson gpus = OrderedJson::array();
  for (const Device& device : report.devices) gpus.push_back(device.name);
  return {{"command", command_line()},
          {"machine",
           {{"cpu", system_value("/proc/cpuinfo", "model name")},
            {"threads", std::thread::hardware_concurrency()},
            {"memory", system_value("/proc/meminfo", "MemTotal")},
            {"kernel", kernel_release()},
            {"gpus", gpus}}},
          {"versions",
           {{"wideep", WIDEEP_VERSION},
            {"build", WIDEEP_BUILD_TYPE},
            {"compiler", WIDEEP_COMPILER},
            {"cuda_runtime", cuda_version_text(report.runtime_version)},
            {"cuda_driver", cuda_version_text(report.driver_version)}}}};
}

}  // namespace wideep::cli
