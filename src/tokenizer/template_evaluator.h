// Runs a chat template's syntax tree.
#pragma once

#include <ctime>
#include <map>
#include <string>
#include <string_view>

#include "base/status.h"
#include "tokenizer/template_ast.h"
#include "tokenizer/template_builtins.h"

namespace wideep::tokenizer {

class TemplateEvaluator {
 public:
  using Variables = std::map<std::string, Value, std::less<>>;

  // `now` is what strftime_now() shows, in local time.
  TemplateEvaluator(Variables variables, std::time_t now, int64_t budget);

  // The text that the block writes. An error names the line.
  Result<std::string> run(const Block& block);

 private:
  // Names of a loop's turn or of a macro's call; they end with it.
  struct Scope {
    Scope* outer = nullptr;
    Variables variables = {};
  };
  enum class Flow { kNext, kBreak, kContinue };

  Result<Flow> execute(const Block& block);
  Result<Flow> execute(const Statement& statement);
  Result<Flow> execute_if(const Statement& statement);
  Result<Flow> execute_for(const Statement& statement);
  Result<ValueList> loop_elements(const Statement& statement);
  Status execute_set(const Statement& statement);
  Status assign(const std::vector<std::string>& targets, const Value& value, Variables& variables);
  Status write(std::string_view text);
  // What the block writes, apart from the output.
  Result<std::string> capture(const Block& block);

  // Counts depth and steps and puts the line before errors, for these:
  Result<Value> evaluate(const Expression& expression);
  Result<Value> evaluate_kind(const Expression& expression);
  Value look_up(const std::string& name) const;
  Result<Value> evaluate_list(const Expression& expression);
  Result<Value> evaluate_map(const Expression& expression);
  Result<Value> evaluate_attribute(const Expression& expression);
  Result<Value> evaluate_item(const Expression& expression);
  Result<Value> evaluate_slice(const Expression& expression);
  Result<Value> evaluate_compare(const Expression& expression);
  Result<Value> evaluate_binary(const Expression& expression);
  Result<Value> evaluate_call(const Expression& expression);
  Result<Arguments> evaluate_arguments(const Expression& expression);
  Result<Value> call_builtin(Value::Builtin builtin, const Arguments& arguments);
  Result<Value> call_macro(const MacroStatement& macro, const Arguments& arguments);
  Result<Value> range(const Arguments& arguments);
  Result<Value> strftime_now(const Arguments& arguments);

  Scope global_;
  Scope* scope_ = &global_;
  std::string* output_ = nullptr;
  Budget budget_;
  std::time_t now_;
  int depth_ = 0;
};

// +, -, *, /, //, %, ** and ~ of two values, as in Python.
Result<Value> binary_operation(std::string_view operation, const Value& left, const Value& right,
                               Budget& budget);

// value[start:stop:step] of a list or string; nullopt where a part is left out.
Result<Value> slice_of(const Value& value, std::optional<int64_t> start,
                       std::optional<int64_t> stop, std::optional<int64_t> step, Budget& budget);

}  // namespace wideep::tokenizer
