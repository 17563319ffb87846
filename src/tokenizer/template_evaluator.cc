#include "tokenizer/template_evaluator.h"

#include <fmt/format.h>

#include <algorithm>

#include "tokenizer/template_lexer.h"
#include "tokenizer/utf8.h"

namespace wideep::tokenizer {
namespace {

// Of statements, expressions and macro calls inside each other; each takes some stack.
constexpr int kMaxDepth = 400;
// A turn makes the map `loop`, which takes as long as many small steps.
constexpr int64_t kLoopTurn = 64 * Budget::kStep;
constexpr int64_t kMaxRange = 100'000;  // as Jinja's sandbox has it

// Messages that have their line already are left as they are.
Status with_line(const Status& status, int line) {
  if (status.message().starts_with("line ")) return status;
  return template_error(line, status.message());
}

}  // namespace

TemplateEvaluator::TemplateEvaluator(Variables variables, std::time_t now, int64_t budget)
    : budget_(budget), now_(now) {
  global_.variables = {
      {"raise_exception", Value::builtin(Value::Builtin::kRaiseException)},
      {"strftime_now", Value::builtin(Value::Builtin::kStrftimeNow)},
      {"range", Value::builtin(Value::Builtin::kRange)},
      {"namespace", Value::builtin(Value::Builtin::kNamespace)},
      {"dict", Value::builtin(Value::Builtin::kDict)},
  };
  for (auto& variable : variables) global_.variables[variable.first] = std::move(variable.second);
}

Result<std::string> TemplateEvaluator::run(const Block& block) {
  return capture(block);
}

Result<std::string> TemplateEvaluator::capture(const Block& block) {
  std::string text;
  std::string* const before = std::exchange(output_, &text);
  const Result<Flow> flow = execute(block);
  output_ = before;
  RETURN_IF_ERROR(flow.status());
  return text;
}

Status TemplateEvaluator::write(std::string_view text) {
  RETURN_IF_ERROR(budget_.charge(static_cast<int64_t>(text.size())));
  *output_ += text;
  return Status::ok();
}

Result<TemplateEvaluator::Flow> TemplateEvaluator::execute(const Block& block) {
  for (const StatementPtr& statement : block) {
    if (depth_ >= kMaxDepth) return template_error(statement->line, "nested too deeply");
    Status charged = budget_.charge(Budget::kStep);
    if (!charged.is_ok()) return with_line(charged, statement->line);
    ++depth_;
    Result<Flow> flow = execute(*statement);
    --depth_;
    if (!flow.is_ok()) return with_line(flow.status(), statement->line);
    if (*flow != Flow::kNext) return flow;
  }
  return Flow::kNext;
}

Result<TemplateEvaluator::Flow> TemplateEvaluator::execute(const Statement& statement) {
  switch (statement.kind) {
    case StatementKind::kText:
      RETURN_IF_ERROR(write(statement.text));
      break;
    case StatementKind::kOutput: {
      ASSIGN_OR_RETURN(const Value value, evaluate(*statement.expression));
      ASSIGN_OR_RETURN(const std::string text, to_text(value, budget_));
      RETURN_IF_ERROR(write(text));
      break;
    }
    case StatementKind::kIf:
      return execute_if(statement);
    case StatementKind::kFor:
      return execute_for(statement);
    case StatementKind::kSet:
      RETURN_IF_ERROR(execute_set(statement));
      break;
    case StatementKind::kSetBlock: {
      ASSIGN_OR_RETURN(std::string text, capture(statement.body));
      scope_->variables[statement.targets[0]] = Value::string(std::move(text));
      break;
    }
    case StatementKind::kMacro:
      scope_->variables[statement.macro->name] = Value::macro(statement.macro.get());
      break;
    case StatementKind::kBreak:
      return Flow::kBreak;
    case StatementKind::kContinue:
      return Flow::kContinue;
  }
  return Flow::kNext;
}

Result<TemplateEvaluator::Flow> TemplateEvaluator::execute_if(const Statement& statement) {
  for (const auto& [condition, body] : statement.branches) {
    ASSIGN_OR_RETURN(const Value value, evaluate(*condition));
    if (value.truthy()) return execute(body);
  }
  return execute(statement.otherwise);
}

Result<ValueList> TemplateEvaluator::loop_elements(const Statement& statement) {
  ASSIGN_OR_RETURN(const Value iterable, evaluate(*statement.expression));
  ASSIGN_OR_RETURN(ValueList elements, elements_of(iterable, budget_));
  if (statement.filter == nullptr) return elements;
  ValueList kept;
  for (Value& element : elements) {
    Scope scope{.outer = scope_};
    RETURN_IF_ERROR(assign(statement.targets, element, scope.variables));
    scope_ = &scope;
    const Result<Value> passes = evaluate(*statement.filter);
    scope_ = scope.outer;
    RETURN_IF_ERROR(passes.status());
    if (passes->truthy()) kept.push_back(std::move(element));
  }
  return kept;
}

Result<TemplateEvaluator::Flow> TemplateEvaluator::execute_for(const Statement& statement) {
  ASSIGN_OR_RETURN(const ValueList elements, loop_elements(statement));
  if (elements.empty()) return execute(statement.otherwise);
  const auto size = static_cast<int64_t>(elements.size());
  for (int64_t i = 0; i < size; ++i) {
    RETURN_IF_ERROR(budget_.charge(kLoopTurn));
    ValueMap loop = {
        {"index", Value::integer(i + 1)},       {"index0", Value::integer(i)},
        {"revindex", Value::integer(size - i)}, {"revindex0", Value::integer(size - i - 1)},
        {"first", Value::boolean(i == 0)},      {"last", Value::boolean(i + 1 == size)},
        {"length", Value::integer(size)},       {"depth", Value::integer(1)},
        {"depth0", Value::integer(0)}};
    if (i > 0) loop.emplace_back("previtem", elements[i - 1]);
    if (i + 1 < size) loop.emplace_back("nextitem", elements[i + 1]);
    Scope scope{.outer = scope_};
    ASSIGN_OR_RETURN(scope.variables["loop"], Value::map(std::move(loop)));
    RETURN_IF_ERROR(assign(statement.targets, elements[i], scope.variables));
    scope_ = &scope;
    const Result<Flow> flow = execute(statement.body);
    scope_ = scope.outer;
    RETURN_IF_ERROR(flow.status());
    if (*flow == Flow::kBreak) break;
  }
  return Flow::kNext;
}

Status TemplateEvaluator::assign(const std::vector<std::string>& targets, const Value& value,
                                 Variables& variables) {
  if (targets.size() == 1) {
    variables[targets[0]] = value;
    return Status::ok();
  }
  ASSIGN_OR_RETURN(const ValueList parts, elements_of(value, budget_));
  if (parts.size() != targets.size()) {
    return Status::invalid_input(
        fmt::format("{} values for {} names", parts.size(), targets.size()));
  }
  for (size_t i = 0; i < parts.size(); ++i) variables[targets[i]] = parts[i];
  return Status::ok();
}

Status TemplateEvaluator::execute_set(const Statement& statement) {
  ASSIGN_OR_RETURN(const Value value, evaluate(*statement.expression));
  if (!statement.targets.empty()) return assign(statement.targets, value, scope_->variables);
  const Value target = look_up(statement.text);
  Value::Namespace* space = target.as_namespace();
  if (space == nullptr) {
    return Status::invalid_input(fmt::format("set {}.{}: {} is not a namespace", statement.text,
                                             statement.attribute, statement.text));
  }
  if (value.as_namespace() != nullptr) {
    return Status::invalid_input("a namespace in a namespace is not supported");
  }
  (*space)[statement.attribute] = value;
  return Status::ok();
}

Value TemplateEvaluator::look_up(const std::string& name) const {
  for (const Scope* scope = scope_; scope != nullptr; scope = scope->outer) {
    const auto found = scope->variables.find(name);
    if (found != scope->variables.end()) return found->second;
  }
  return Value::undefined(name);
}

Result<Value> TemplateEvaluator::evaluate(const Expression& expression) {
  if (depth_ >= kMaxDepth) return template_error(expression.line, "nested too deeply");
  Status charged = budget_.charge(Budget::kStep);
  if (!charged.is_ok()) return with_line(charged, expression.line);
  ++depth_;
  Result<Value> result = evaluate_kind(expression);
  --depth_;
  if (!result.is_ok()) return with_line(result.status(), expression.line);
  return result;
}

Result<Value> TemplateEvaluator::evaluate_kind(const Expression& expression) {
  const std::vector<ExpressionPtr>& children = expression.children;
  switch (expression.kind) {
    case ExpressionKind::kLiteral:
      return expression.value;
    case ExpressionKind::kName:
      return look_up(expression.text);
    case ExpressionKind::kList:
      return evaluate_list(expression);
    case ExpressionKind::kMap:
      return evaluate_map(expression);
    case ExpressionKind::kAttribute:
      return evaluate_attribute(expression);
    case ExpressionKind::kItem:
      return evaluate_item(expression);
    case ExpressionKind::kSlice:
      return evaluate_slice(expression);
    case ExpressionKind::kCall:
      return evaluate_call(expression);
    case ExpressionKind::kCompare:
      return evaluate_compare(expression);
    case ExpressionKind::kBinary:
      return evaluate_binary(expression);
    case ExpressionKind::kFilter: {
      ASSIGN_OR_RETURN(const Value value, evaluate(*children[0]));
      ASSIGN_OR_RETURN(const Arguments arguments, evaluate_arguments(expression));
      Result<Value> result = expression.filter->apply(value, arguments, budget_);
      if (result.is_ok()) return result;
      return Status::invalid_input(
          fmt::format("filter {}: {}", expression.text, result.status().message()));
    }
    case ExpressionKind::kTest: {
      ASSIGN_OR_RETURN(const Value value, evaluate(*children[0]));
      ASSIGN_OR_RETURN(const Arguments arguments, evaluate_arguments(expression));
      ASSIGN_OR_RETURN(const bool passes,
                       apply_test(*expression.test, value, arguments.positional, budget_));
      return Value::boolean(passes);
    }
    case ExpressionKind::kNegate:
    case ExpressionKind::kPlus: {
      ASSIGN_OR_RETURN(const Value value, evaluate(*children[0]));
      const bool negate = expression.kind == ExpressionKind::kNegate;
      return binary_operation(negate ? "-" : "+", Value::integer(0), value, budget_);
    }
    case ExpressionKind::kNot: {
      ASSIGN_OR_RETURN(const Value value, evaluate(*children[0]));
      return Value::boolean(!value.truthy());
    }
    case ExpressionKind::kAnd:
    case ExpressionKind::kOr: {
      ASSIGN_OR_RETURN(Value left, evaluate(*children[0]));
      const bool decided = left.truthy() == (expression.kind == ExpressionKind::kOr);
      return decided ? Result<Value>(std::move(left)) : evaluate(*children[1]);
    }
    case ExpressionKind::kConditional: {
      ASSIGN_OR_RETURN(const Value condition, evaluate(*children[1]));
      if (condition.truthy()) return evaluate(*children[0]);
      if (children[2] != nullptr) return evaluate(*children[2]);
      return Value::undefined("an inline if without else");
    }
  }
  CHECK(false);
  return Value();
}

Result<Value> TemplateEvaluator::evaluate_list(const Expression& expression) {
  ValueList items;
  for (const ExpressionPtr& child : expression.children) {
    ASSIGN_OR_RETURN(Value item, evaluate(*child));
    items.push_back(std::move(item));
  }
  return Value::list(std::move(items));
}

Result<Value> TemplateEvaluator::evaluate_map(const Expression& expression) {
  ValueMap items;
  for (size_t i = 0; i < expression.children.size(); i += 2) {
    ASSIGN_OR_RETURN(const Value key, evaluate(*expression.children[i]));
    ASSIGN_OR_RETURN(std::string name, expect_string(key, "a key"));
    ASSIGN_OR_RETURN(Value value, evaluate(*expression.children[i + 1]));
    items.emplace_back(std::move(name), std::move(value));
  }
  return Value::map(std::move(items));
}

Result<Value> TemplateEvaluator::evaluate_attribute(const Expression& expression) {
  ASSIGN_OR_RETURN(const Value value, evaluate(*expression.children[0]));
  if (value.is_undefined()) {
    return Status::invalid_input(fmt::format("\"{}\" is undefined: it has no \"{}\"",
                                             value.undefined_name(), expression.text));
  }
  // Jinja finds the method there, not the key, and prints it as "<built-in method ...>".
  if (value.as_map() != nullptr && is_map_method(expression.text)) {
    return Status::invalid_input(fmt::format(
        ".{0} is a method: write .{0}() to call it or [\"{0}\"] for the key", expression.text));
  }
  return member_of(value, expression.text);
}

Result<Value> TemplateEvaluator::evaluate_item(const Expression& expression) {
  ASSIGN_OR_RETURN(const Value value, evaluate(*expression.children[0]));
  ASSIGN_OR_RETURN(const Value key, evaluate(*expression.children[1]));
  if (value.is_undefined()) {
    ASSIGN_OR_RETURN(const std::string name, to_text(key, budget_));
    return Status::invalid_input(
        fmt::format("\"{}\" is undefined: it has no \"{}\"", value.undefined_name(), name));
  }
  return item_of(value, key, budget_);
}

Result<Value> TemplateEvaluator::evaluate_slice(const Expression& expression) {
  ASSIGN_OR_RETURN(const Value value, evaluate(*expression.children[0]));
  std::optional<int64_t> parts[3];
  for (int i = 0; i < 3; ++i) {
    if (expression.children[i + 1] == nullptr) continue;
    ASSIGN_OR_RETURN(const Value part, evaluate(*expression.children[i + 1]));
    if (part.is_none()) continue;
    ASSIGN_OR_RETURN(parts[i], expect_integer(part, "a slice's bound"));
  }
  return slice_of(value, parts[0], parts[1], parts[2], budget_);
}

Result<Value> TemplateEvaluator::evaluate_compare(const Expression& expression) {
  ASSIGN_OR_RETURN(Value left, evaluate(*expression.children[0]));
  for (size_t i = 0; i < expression.operators.size(); ++i) {
    const std::string& operation = expression.operators[i];
    ASSIGN_OR_RETURN(Value right, evaluate(*expression.children[i + 1]));
    bool holds = false;
    if (operation == "==" || operation == "!=") {
      ASSIGN_OR_RETURN(const bool equal, values_equal(left, right, budget_));
      holds = equal == (operation == "==");
    } else if (operation == "in" || operation == "not in") {
      ASSIGN_OR_RETURN(const bool inside, contains(right, left, budget_));
      holds = inside == (operation == "in");
    } else {
      ASSIGN_OR_RETURN(const int order, compare_order(left, right, budget_));
      holds = (order == 0 && operation.size() == 2) || (order < 0 && operation[0] == '<') ||
              (order > 0 && operation[0] == '>');
    }
    if (!holds) return Value::boolean(false);
    left = std::move(right);
  }
  return Value::boolean(true);
}

Result<Value> TemplateEvaluator::evaluate_binary(const Expression& expression) {
  ASSIGN_OR_RETURN(const Value left, evaluate(*expression.children[0]));
  ASSIGN_OR_RETURN(const Value right, evaluate(*expression.children[1]));
  return binary_operation(expression.text, left, right, budget_);
}

Result<Arguments> TemplateEvaluator::evaluate_arguments(const Expression& expression) {
  Arguments arguments;
  for (size_t i = 1; i < expression.children.size(); ++i) {
    ASSIGN_OR_RETURN(Value value, evaluate(*expression.children[i]));
    arguments.positional.push_back(std::move(value));
  }
  for (const auto& [name, child] : expression.keywords) {
    ASSIGN_OR_RETURN(Value value, evaluate(*child));
    arguments.keywords.emplace_back(name, std::move(value));
  }
  return arguments;
}

Result<Value> TemplateEvaluator::evaluate_call(const Expression& expression) {
  const Expression& callee = *expression.children[0];
  if (callee.kind == ExpressionKind::kAttribute) {
    ASSIGN_OR_RETURN(const Value subject, evaluate(*callee.children[0]));
    ASSIGN_OR_RETURN(const Arguments arguments, evaluate_arguments(expression));
    return call_method(subject, callee.text, arguments, budget_);
  }
  ASSIGN_OR_RETURN(const Value function, evaluate(callee));
  ASSIGN_OR_RETURN(const Arguments arguments, evaluate_arguments(expression));
  if (const Value::Builtin* builtin = function.as_builtin()) {
    return call_builtin(*builtin, arguments);
  }
  if (const MacroStatement* macro = function.as_macro()) return call_macro(*macro, arguments);
  if (function.is_undefined()) {
    return Status::invalid_input(
        fmt::format("the function \"{}\" is not supported", function.undefined_name()));
  }
  return Status::invalid_input(fmt::format("{} is not a function", function.type_name()));
}

Result<Value> TemplateEvaluator::call_builtin(Value::Builtin builtin, const Arguments& arguments) {
  switch (builtin) {
    case Value::Builtin::kRaiseException: {
      ASSIGN_OR_RETURN(const auto bound, arguments.bind({"message"}));
      ASSIGN_OR_RETURN(const std::string message, to_text(bound[0].value_or(Value()), budget_));
      return Status::invalid_input(fmt::format("the template says: {}", message));
    }
    case Value::Builtin::kStrftimeNow:
      return strftime_now(arguments);
    case Value::Builtin::kRange:
      return range(arguments);
    case Value::Builtin::kDict:
      if (!arguments.positional.empty()) {
        return Status::invalid_input("dict() takes keyword arguments only");
      }
      return Value::map(ValueMap(arguments.keywords.begin(), arguments.keywords.end()));
    case Value::Builtin::kNamespace:
      break;
  }
  if (!arguments.positional.empty()) {
    return Status::invalid_input("namespace() takes keyword arguments only");
  }
  Value space = Value::name_space();
  for (const auto& [name, value] : arguments.keywords) {
    if (value.as_namespace() != nullptr) {
      return Status::invalid_input("a namespace in a namespace is not supported");
    }
    (*space.as_namespace())[name] = value;
  }
  return space;
}

// A macro sees its arguments and the top of the template.
Result<Value> TemplateEvaluator::call_macro(const MacroStatement& macro,
                                            const Arguments& arguments) {
  std::vector<std::string_view> names;
  for (const auto& [name, fallback] : macro.parameters) names.push_back(name);
  const auto bound = arguments.bind(names);
  if (!bound.is_ok()) {
    return Status::invalid_input(fmt::format("{}(): {}", macro.name, bound.status().message()));
  }
  Scope scope{.outer = &global_};
  Scope* const caller = std::exchange(scope_, &scope);
  Status status;
  for (size_t i = 0; i < names.size() && status.is_ok(); ++i) {
    const auto& [name, fallback] = macro.parameters[i];
    if ((*bound)[i]) {
      scope.variables[name] = *(*bound)[i];
    } else if (fallback == nullptr) {
      scope.variables[name] = Value::undefined(name);
    } else {
      const Result<Value> value = evaluate(*fallback);
      status = value.status();
      if (value.is_ok()) scope.variables[name] = *value;
    }
  }
  Result<std::string> text = status.is_ok() ? capture(macro.body) : Result<std::string>(status);
  scope_ = caller;
  RETURN_IF_ERROR(text.status());
  return Value::string(std::move(text).value());
}

Result<Value> TemplateEvaluator::range(const Arguments& arguments) {
  const std::vector<Value>& given = arguments.positional;
  if (given.empty() || given.size() > 3 || !arguments.keywords.empty()) {
    return Status::invalid_input("range() takes one to three integers");
  }
  int64_t numbers[3] = {0, 0, 1};  // start, stop, step
  for (size_t i = 0; i < given.size(); ++i) {
    ASSIGN_OR_RETURN(numbers[given.size() == 1 ? 1 : i], expect_integer(given[i], "range()"));
  }
  const auto [start, stop, step] = numbers;
  if (step == 0) return Status::invalid_input("range() with step 0");
  ValueList items;
  for (int64_t i = start; step > 0 ? i < stop : i > stop;) {
    RETURN_IF_ERROR(budget_.charge(Budget::kStep));
    if (static_cast<int64_t>(items.size()) == kMaxRange) {
      return Status::invalid_input(fmt::format("range() of more than {} numbers", kMaxRange));
    }
    items.push_back(Value::integer(i));
    if (__builtin_add_overflow(i, step, &i)) break;
  }
  return Value::list(std::move(items));
}

Result<Value> TemplateEvaluator::strftime_now(const Arguments& arguments) {
  ASSIGN_OR_RETURN(const auto bound, arguments.bind({"format"}));
  if (!bound[0]) return Status::invalid_input("strftime_now() takes a format");
  ASSIGN_OR_RETURN(const std::string format, expect_string(*bound[0], "the format"));
  std::tm local{};
  char text[256];
  // A character more, so that an empty result is told from one that is too long.
  const std::string padded = format + " ";
  if (localtime_r(&now_, &local) == nullptr ||
      std::strftime(text, sizeof(text), padded.c_str(), &local) == 0 || find_invalid_utf8(text)) {
    return Status::invalid_input("strftime_now(): the format makes no text of up to 255 bytes");
  }
  std::string result = text;
  result.pop_back();
  return Value::string(std::move(result));
}

}  // namespace wideep::tokenizer
