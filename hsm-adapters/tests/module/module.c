/*
 * A PKCS#11 module for tests: SoftHSM behind it, and in front of it what a file orders. The file is read
 * at every call, so that a test changes the order while the module is loaded, and another process gets
 * the same. Compiled by the test with REAL (SoftHSM's module) and ORDERS (the file) defined.
 *
 * Orders: none, hang, hang-open, hang-close, crash, wrong, wrong-once, wrong-mac, session, removed, full,
 * pin-locked, pin-final, pin-low, kdf, leaky.
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef unsigned long CK;

/* CK_FUNCTION_LIST: the version, then the functions in the standard's order. */
struct list {
    unsigned char major, minor;
    CK (*f[68])();
};

enum {
    GET_FUNCTION_LIST = 3,
    GET_TOKEN_INFO = 6,
    OPEN_SESSION = 12,
    CLOSE_SESSION = 13,
    GET_SESSION_INFO = 15,
    LOGIN = 18,
    GET_ATTRIBUTE_VALUE = 24,
    FIND_OBJECTS_INIT = 26,
    SIGN_INIT = 42,
    SIGN = 43,
    UNWRAP_KEY = 61,
    DERIVE_KEY = 62
};

struct attribute {
    CK type;
    unsigned char *value;
    CK length;
};

#define CKR_GENERAL_ERROR 0x5
#define CKR_MECHANISM_PARAM_INVALID 0x71
#define CKR_PIN_LOCKED 0xA4
#define CKR_SESSION_COUNT 0xB1
#define CKR_SESSION_HANDLE_INVALID 0xB3
#define CKR_TOKEN_NOT_PRESENT 0xE0
#define CKA_VALUE 0x11
#define CKA_EXTRACTABLE 0x162
#define CKF_USER_PIN_COUNT_LOW 0x10000
#define CKF_USER_PIN_FINAL_TRY 0x20000
/* Where CK_TOKEN_INFO has its flags. */
#define FLAGS_AT 96

static struct list real, ours;

static int ordered(const char *order)
{
    char word[32] = "";
    FILE *file = fopen(ORDERS, "r");
    if (file) {
        if (fscanf(file, "%31s", word) != 1)
            word[0] = 0;
        fclose(file);
    }
    return strcmp(word, order) == 0;
}

static void note(const char *what)
{
    FILE *file = fopen(ORDERS ".calls", "a");
    if (file) {
        fprintf(file, "%s\n", what);
        fclose(file);
    }
}

/* Until the order is another. */
static void hang(const char *order)
{
    while (ordered(order))
        usleep(5000);
}

/* What stands before each call of an HSM session. */
static CK before(void)
{
    hang("hang");
    if (ordered("crash")) {
        volatile int *nowhere = 0;
        *nowhere = 1;
    }
    if (ordered("session"))
        return CKR_SESSION_HANDLE_INVALID;
    return ordered("removed") ? CKR_TOKEN_NOT_PRESENT : 0;
}

static CK get_token_info(CK slot, unsigned char *info)
{
    CK code = real.f[GET_TOKEN_INFO](slot, info);
    CK more = ordered("pin-final") ? CKF_USER_PIN_FINAL_TRY
              : ordered("pin-low") ? CKF_USER_PIN_COUNT_LOW
                                   : 0;
    if (code == 0) {
        CK flags;
        memcpy(&flags, info + FLAGS_AT, sizeof flags);
        flags |= more;
        memcpy(info + FLAGS_AT, &flags, sizeof flags);
    }
    return code;
}

static CK open_session(CK slot, CK flags, void *application, void *notify, CK *session)
{
    hang("hang-open");
    if (ordered("removed"))
        return CKR_TOKEN_NOT_PRESENT;
    if (ordered("full"))
        return CKR_SESSION_COUNT;
    return real.f[OPEN_SESSION](slot, flags, application, notify, session);
}

static CK close_session(CK session)
{
    hang("hang-close");
    return real.f[CLOSE_SESSION](session);
}

static CK login(CK session, CK user, unsigned char *pin, CK length)
{
    note("login");
    if (ordered("pin-locked"))
        return CKR_PIN_LOCKED;
    return real.f[LOGIN](session, user, pin, length);
}

static CK get_attribute_value(CK session, CK object, struct attribute *asked, CK count)
{
    CK code = real.f[GET_ATTRIBUTE_VALUE](session, object, asked, count);
    for (CK i = 0; i < count; i++) {
        if (asked[i].type == CKA_EXTRACTABLE && asked[i].value && ordered("leaky"))
            asked[i].value[0] = 1;
        if (asked[i].type != CKA_VALUE || !asked[i].value || code != 0)
            continue;
        if (ordered("wrong"))
            asked[i].value[7] ^= 1;
        if (ordered("wrong-once")) {
            asked[i].value[7] ^= 1;
            FILE *file = fopen(ORDERS, "w");
            if (file) {
                fprintf(file, "none");
                fclose(file);
            }
        }
    }
    return code;
}

static CK sign_init(CK session, void *mechanism, CK key)
{
    CK code = before();
    return code ? code : real.f[SIGN_INIT](session, mechanism, key);
}

static CK sign(CK session, unsigned char *data, CK length, unsigned char *mac, CK *mac_length)
{
    CK code = real.f[SIGN](session, data, length, mac, mac_length);
    if (code == 0 && mac && ordered("wrong-mac"))
        mac[0] ^= 1;
    return code;
}

static CK unwrap_key(CK session, void *mechanism, CK key, unsigned char *wrapped, CK length,
                     struct attribute *attributes, CK count, CK *object)
{
    CK code = before();
    if (code)
        return code;
    return real.f[UNWRAP_KEY](session, mechanism, key, wrapped, length, attributes, count, object);
}

static CK derive_key(CK session, void *mechanism, CK key, struct attribute *attributes, CK count,
                     CK *object)
{
    CK code = before();
    if (code)
        return code;
    if (ordered("kdf"))
        return CKR_MECHANISM_PARAM_INVALID;
    return real.f[DERIVE_KEY](session, mechanism, key, attributes, count, object);
}

CK C_GetFunctionList(struct list **list)
{
    if (!ours.major) {
        struct list *theirs;
        void *library = dlopen(REAL, RTLD_NOW | RTLD_LOCAL);
        CK (*get)(struct list **) =
            library ? (CK (*)(struct list **))dlsym(library, "C_GetFunctionList") : 0;
        if (!get || get(&theirs) != 0)
            return CKR_GENERAL_ERROR;
        real = *theirs;
        ours = real;
        ours.f[GET_FUNCTION_LIST] = (CK (*)())C_GetFunctionList;
        ours.f[GET_TOKEN_INFO] = (CK (*)())get_token_info;
        ours.f[OPEN_SESSION] = (CK (*)())open_session;
        ours.f[CLOSE_SESSION] = (CK (*)())close_session;
        ours.f[LOGIN] = (CK (*)())login;
        ours.f[GET_ATTRIBUTE_VALUE] = (CK (*)())get_attribute_value;
        ours.f[SIGN_INIT] = (CK (*)())sign_init;
        ours.f[SIGN] = (CK (*)())sign;
        ours.f[UNWRAP_KEY] = (CK (*)())unwrap_key;
        ours.f[DERIVE_KEY] = (CK (*)())derive_key;
    }
    *list = &ours;
    return 0;
}
