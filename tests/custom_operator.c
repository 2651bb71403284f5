/* A library of one custom operator for ONNX Runtime: topfive.test::Softsign3, y = 3 x / (1 + |x|) on float32.
 *
 * Only what is needed of ONNX Runtime's C API is declared, by place: the functions of OrtApi never move
 * (its version 1 ends with the 102nd), and neither do the fields of OrtCustomOp.
 */
#include <math.h>
#include <stddef.h>
#include <stdint.h>

#define API_VERSION 11
enum {
    CREATE_DOMAIN = 26,
    DOMAIN_ADD = 27,
    ADD_DOMAIN = 28,
    TENSOR_DATA = 51,
    DIMENSIONS_COUNT = 61,
    DIMENSIONS = 62,
    ELEMENT_COUNT = 64,
    TYPE_AND_SHAPE = 65,
    CONTEXT_INPUT = 90,
    CONTEXT_OUTPUT = 91,
    RELEASE_TYPE_AND_SHAPE = 99
};
#define FLOAT 1
#define MOST_DIMENSIONS 8

typedef void *Status;
typedef void (*Function)(void);
typedef const Function *Api;
typedef struct {
    Api (*get)(uint32_t version);
    const char *(*version)(void);
} ApiBase;

typedef struct CustomOp {
    uint32_t version;
    void *(*create)(const struct CustomOp *, Api, const void *);
    const char *(*name)(const struct CustomOp *);
    const char *(*provider)(const struct CustomOp *);
    int (*input_type)(const struct CustomOp *, size_t);
    size_t (*inputs)(const struct CustomOp *);
    int (*output_type)(const struct CustomOp *, size_t);
    size_t (*outputs)(const struct CustomOp *);
    void (*compute)(void *, void *);
    void (*destroy)(void *);
    int (*input_kind)(const struct CustomOp *, size_t);
    int (*output_kind)(const struct CustomOp *, size_t);
} CustomOp;

static Api api;

static void *create(const CustomOp *op, Api given, const void *info) {
    (void)op, (void)info;
    return (void *)given;
}
static const char *name(const CustomOp *op) { (void)op; return "Softsign3"; }
static const char *provider(const CustomOp *op) { (void)op; return NULL; }
static int float_type(const CustomOp *op, size_t i) { (void)op, (void)i; return FLOAT; }
static size_t one(const CustomOp *op) { (void)op; return 1; }
static int required(const CustomOp *op, size_t i) { (void)op, (void)i; return 0; }
static void destroy(void *kernel) { (void)kernel; }

static void compute(void *kernel, void *context) {
    const void *input = NULL;
    void *output = NULL, *shape = NULL, *from = NULL, *to = NULL;
    size_t rank = 0, count = 0;
    int64_t sizes[MOST_DIMENSIONS];
    (void)kernel;
    ((Status(*)(const void *, size_t, const void **))api[CONTEXT_INPUT])(context, 0, &input);
    ((Status(*)(const void *, void **))api[TYPE_AND_SHAPE])(input, &shape);
    ((Status(*)(const void *, size_t *))api[DIMENSIONS_COUNT])(shape, &rank);
    ((Status(*)(const void *, int64_t *, size_t))api[DIMENSIONS])(shape, sizes, rank);
    ((Status(*)(const void *, size_t *))api[ELEMENT_COUNT])(shape, &count);
    ((Status(*)(void *, size_t, const int64_t *, size_t, void **))api[CONTEXT_OUTPUT])(context, 0, sizes, rank,
                                                                                      &output);
    ((Status(*)(void *, void **))api[TENSOR_DATA])((void *)input, &from);
    ((Status(*)(void *, void **))api[TENSOR_DATA])(output, &to);
    for (size_t i = 0; i < count; ++i)
        ((float *)to)[i] = 3.0f * ((const float *)from)[i] / (1.0f + fabsf(((const float *)from)[i]));
    ((void (*)(void *))api[RELEASE_TYPE_AND_SHAPE])(shape);
}

static const CustomOp SOFTSIGN3 = {API_VERSION, create, name, provider, float_type, one, float_type, one,
                                   compute, destroy, required, required};

Status RegisterCustomOps(void *options, const ApiBase *base) {
    void *domain = NULL;
    api = base->get(API_VERSION);
    Status status = ((Status(*)(const char *, void **))api[CREATE_DOMAIN])("topfive.test", &domain);
    if (status == NULL) status = ((Status(*)(void *, const CustomOp *))api[DOMAIN_ADD])(domain, &SOFTSIGN3);
    if (status == NULL) status = ((Status(*)(void *, void *))api[ADD_DOMAIN])(options, domain);
    return status;
}
